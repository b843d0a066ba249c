// The server, as this page speaks to it. The key stays in this tab's session storage and goes nowhere but here.
import { serverEvents } from "./sse.js";

const KEY = "cord-key";
const RETRIES = 5;

export const storedKey = () => sessionStorage.getItem(KEY);

export function storeKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

export class ApiError extends Error {
  constructor(status, message, code) {
    super(message);
    Object.assign(this, { status, code });
  }
}

let onLocked = () => {};

// Called when the server asks for a key, or for another one.
export function whenLocked(listener) {
  onLocked = listener;
}

async function call(path, options = {}) {
  const key = storedKey();
  const headers = { ...options.headers, ...(key ? { authorization: `Bearer ${key}` } : {}) };
  const response = await fetch(path, { ...options, headers, cache: "no-store" });
  if (response.ok) return response;
  const error = await response.json().then((body) => body.error, () => null);
  if (response.status === 401) onLocked();
  throw new ApiError(response.status, error?.message ?? `the server answered ${response.status}`, error?.code);
}

export const getJson = async (path, options) => (await call(path, options)).json();

export const getText = async (path) => (await call(path)).text();

// `/ready` tells just as much when it answers 503.
export async function getReadiness() {
  const response = await fetch("/ready", { cache: "no-store" });
  return response.json();
}

export const getModels = async () => (await getJson("/v1/models")).data;

export const traceUrl = (id) => `/v1/cord/traces/${encodeURIComponent(id)}`;

// A trace is written just after its search's last event.
export async function getTrace(id) {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await (await call(traceUrl(id))).json();
    } catch (error) {
      if (error.status !== 404 || attempt === RETRIES) throw error;
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  }
}

// Post a chat request and read its stream to the end; throws what the server says went wrong.
export async function runChat(body, requestId, signal) {
  const headers = { "content-type": "application/json", "x-request-id": requestId };
  const response = await call("/v1/chat/completions", { method: "POST", headers, body: JSON.stringify(body), signal });
  for await (const { data } of serverEvents(response)) {
    const error = data === "[DONE]" ? null : JSON.parse(data).error;
    if (error) throw new ApiError(response.status, error.message, error.code);
  }
}

// A search's events from its beginning to its end, through broken connections.
export async function* watchSearch(id, signal) {
  let last = null;
  for (let attempt = 0; attempt < RETRIES; attempt += 1) {
    try {
      const headers = last === null ? {} : { "last-event-id": last };
      const response = await call(`/v1/cord/searches/${encodeURIComponent(id)}/events?wait_s=30`, { headers, signal });
      if (response.status === 204) return;
      for await (const event of serverEvents(response)) {
        attempt = 0;
        last = event.id;
        const told = JSON.parse(event.data);
        yield told;
        if (["finished", "failed", "cancelled"].includes(told.type)) return;
      }
    } catch (error) {
      if (signal.aborted || error instanceof ApiError) throw error;
    }
  }
}
