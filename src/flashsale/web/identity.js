// Who is buying: the bearer token pasted into the page, for as long as the tab lives; without one, a name made up once.
// A shop that wants tokens answers the name with 401, and the page then asks for a token.

import { Shelf } from "./shelf.js";

const BUYER = "flash.buyer";
const TOKEN = "flash.token";

export class Identity {
  #browser = new Shelf(() => localStorage);
  #tab = new Shelf(() => sessionStorage);

  // A key or a name that nobody can guess: 22 characters for 128 bits.
  static random() {
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  }

  headers() {
    const token = this.#tab.get(TOKEN);
    return token ? { Authorization: `Bearer ${token}` } : { "Buyer-Id": this.#made() };
  }

  // Whose wishes these are; the shop checks the token, this only reads its name.
  buyer() {
    const token = this.#tab.get(TOKEN);
    return token ? `token:${subject(token)}` : `made:${this.#made()}`;
  }

  hasToken() {
    return this.#tab.get(TOKEN) !== null;
  }

  signIn(token) {
    this.#tab.set(TOKEN, token);
  }

  signOut() {
    this.#tab.remove(TOKEN);
  }

  #made() {
    let name = this.#browser.get(BUYER);
    if (!name) {
      name = Identity.random();
      this.#browser.set(BUYER, name);
    }
    return name;
  }
}

// Three parts of URL-safe characters; anything else is not even sent.
export function looksLikeToken(text) {
  return /^[\w-]+\.[\w-]+\.[\w-]+$/.test(text) && subject(text) !== null;
}

function subject(token) {
  try {
    return JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"))).sub ?? null;
  } catch {
    return null;
  }
}
