// Requests to the shop. No answer is an answer too: null.

const ANSWER_MS = 5000; // past this a request is unknown; a healthy shop answers within milliseconds

// Sends a request {method, path, headers, body, waitS} and returns {status, body, retryAfterS}; null without an answer.
export async function send(request, identity, signal) {
  // by hand, because AbortSignal.any is younger than many a browser
  const end = new AbortController();
  const limit = setTimeout(() => end.abort(), ANSWER_MS + (request.waitS ?? 0) * 1000);
  signal?.addEventListener("abort", () => end.abort());
  const headers = { ...identity, ...request.headers };
  if (request.body) headers["Content-Type"] = "application/json";
  try {
    const reply = await fetch(request.path, {
      method: request.method,
      headers,
      body: request.body ? JSON.stringify(request.body) : undefined,
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
      signal: end.signal,
    });
    const text = await reply.text();
    return { status: reply.status, body: parsed(text), retryAfterS: seconds(reply.headers.get("Retry-After")) };
  } catch {
    return null;
  } finally {
    clearTimeout(limit);
  }
}

export async function get(path) {
  const answer = await send({ method: "GET", path, headers: {}, body: null }, {});
  return answer?.status === 200 ? answer.body : null;
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function seconds(text) {
  return /^\d{1,4}$/.test(text ?? "") ? Number(text) : null;
}
