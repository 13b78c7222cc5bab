// Who is signed in: the form that asks, and the way out. The same on every page.

import { signIn, signOut, whoAmI } from "./api.js";
import { by, h } from "./dom.js";

export class SignIn {
  #page;
  #title = document.title;

  // `page`: prepare(me) is what may fail before anything is shown, enter() shows it, leave() takes it away, say(text) tells a problem.
  constructor(page) {
    this.#page = page;
    by("sign-in").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submitted();
    });
    by("sign-out").addEventListener("click", () => this.#out());
  }

  async start() {
    try {
      const who = await whoAmI();
      if (who) await this.#in(who);
      else this.ask("");
    } catch (problem) {
      this.ask(problem.message);
    }
  }

  ask(why) {
    this.#page.leave();
    if (by("deed").open) by("deed").close();
    by("top").hidden = true;
    by("sign-in").hidden = false;
    by("sign-in-error").textContent = why;
    by("password").value = "";
    document.title = `Sign in · ${this.#title}`;
    by("name").select(); // and not only the focus: whoever signs in next has another
  }

  async #in(who) {
    await this.#page.prepare({ ...who, isOperator: who.role === "operator" });
    by("sign-in").hidden = true;
    by("top").hidden = false;
    by("me").replaceChildren(who.name, h("span", { class: "role" }, `, ${who.role}`));
    document.title = this.#title;
    await this.#page.enter();
  }

  async #submitted() {
    const button = by("sign-in").querySelector("button");
    if (button.getAttribute("aria-busy")) return;
    button.setAttribute("aria-busy", "true");
    by("sign-in-error").textContent = "";
    try {
      await this.#in(await signIn(by("name").value.trim(), by("password").value));
      by("main").querySelector("h1")?.focus();
    } catch (problem) {
      by("sign-in-error").textContent = problem.message;
      by("password").select();
    } finally {
      button.removeAttribute("aria-busy");
    }
  }

  async #out() {
    try {
      await signOut();
      this.ask("");
    } catch (problem) {
      if (problem.status === 401) this.ask("");
      else this.#page.say(problem.message);
    }
  }
}

// A skip link's address is no part of the page: it moves the focus and nothing else.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  by("main").focus();
});
