// Elements from plain calls, and one tree made into another where they differ, so that focus and a reader's place stay.

const SVG = new Set(["svg", "rect", "path", "title"]);

// h("p", {class: "x"}, "text", child): null, undefined and false are left out, of attributes and of children.
export function h(tag, attributes = {}, ...children) {
  const element = SVG.has(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// Makes the children of `parent` what `wanted` is. Whatever is of the same kind in the same place is changed and not replaced.
export function morph(parent, wanted) {
  wanted.forEach((want, place) => {
    const have = parent.childNodes[place];
    if (!have) parent.append(want);
    else if (!isSame(have, want)) have.replaceWith(want);
    else if (have.nodeType === Node.TEXT_NODE) {
      if (have.data !== want.data) have.data = want.data;
    } else {
      dress(have, want);
      morph(have, [...want.childNodes]);
    }
  });
  while (parent.childNodes.length > wanted.length) parent.lastChild.remove();
}

export function by(id) {
  return document.getElementById(id);
}

function isSame(have, want) {
  return have.nodeName === want.nodeName && have.nodeType === want.nodeType && have.dataset?.key === want.dataset?.key;
}

function dress(have, want) {
  for (const { name } of [...have.attributes]) if (!want.hasAttribute(name)) have.removeAttribute(name);
  for (const { name, value } of want.attributes) if (have.getAttribute(name) !== value) have.setAttribute(name, value);
}
