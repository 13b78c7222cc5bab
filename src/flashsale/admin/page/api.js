// Requests to the admin's own process. An answer that is none of ours, or none at all, is a Problem too.

const ANSWER_MS = 40_000; // past what the process itself waits for a store

const PLAN_TRIES = 3;
const PLAN_PAUSE_MS = 1000;

export class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }

  // May the very same have happened, or happen yet? Then it is to be sent again under its key.
  get isUnknown() {
    return this.status === 0 || this.status >= 500;
  }
}

let csrf = "";

export async function whoAmI() {
  return remember(await get("/api/session"));
}

export async function signIn(name, password) {
  return remember(await send("POST", "/api/session", { name, password }));
}

export async function signOut() {
  await send("POST", "/api/session/end", {});
}

export function get(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return send("GET", given.length ? `${path}?${new URLSearchParams(given)}` : path);
}

// A plan changes nothing, so it is asked for again when a store is busy.
export async function plan(action, values, signal) {
  for (let tries = 1; ; tries++) {
    try {
      return await send("POST", `/api/plans/${action}`, values, {}, [signal]);
    } catch (problem) {
      if (problem.status !== 503 || tries === PLAN_TRIES || signal.aborted) throw problem;
      await new Promise((resolve) => setTimeout(resolve, PLAN_PAUSE_MS));
    }
  }
}

export function act(action, values, key) {
  return send("POST", `/api/deeds/${action}`, values, { "Idempotency-Key": key });
}

// null when nobody is signed in.
function remember(me) {
  csrf = me?.csrf ?? "";
  return me;
}

async function send(method, path, body, more = {}, signals = []) {
  const headers = { ...more };
  if (method !== "GET") Object.assign(headers, { "Content-Type": "application/json", "X-CSRF-Token": csrf });
  let reply, text;
  try {
    reply = await fetch(path, {
      method,
      headers,
      body: body && JSON.stringify(body),
      cache: "no-store",
      credentials: "same-origin",
      redirect: "error",
      signal: AbortSignal.any([AbortSignal.timeout(ANSWER_MS), ...signals]),
    });
    text = await reply.text();
  } catch {
    throw new Problem(0, "No answer. Is the admin's process running?");
  }
  if (reply.status === 204) return null;
  const document = parsed(text);
  if (reply.ok && document) return document;
  throw new Problem(reply.status, document?.detail ?? `It answered ${reply.status}.`);
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
