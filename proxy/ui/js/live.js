// A search that this page runs: asks, watches, and tells its state once a frame.
import { useEffect, useReducer, useRef } from "./html.js";
import { runChat, watchSearch } from "./client.js";
import { Search } from "./search.js";

// How long a failed request's search is waited for: it may never have begun.
const NEWS_MS = 2000;

export class LiveSearch {
  constructor(body, onChange) {
    this.body = body;
    this.requestId = `page-${crypto.getRandomValues(new Uint32Array(4)).join("-")}`;
    this.search = new Search();
    this.error = null;
    this.ended = false;
    this.heardAt = performance.now();
    this.onChange = onChange;
    this.abort = new AbortController();
  }

  async run() {
    const { signal } = this.abort;
    const answered = runChat(this.body, this.requestId, signal).catch((error) => {
      if (!signal.aborted) this.error = error.message;
      // A request that was refused has no search to watch; one that failed at once may still be told of.
      if (error.status < 500) this.abort.abort();
      else setTimeout(() => this.search.started || this.abort.abort(), NEWS_MS);
    });
    try {
      for await (const event of watchSearch(this.requestId, signal)) {
        this.search.apply(event);
        this.heardAt = performance.now();
        this.onChange();
      }
    } catch (error) {
      if (!signal.aborted) this.error ??= error.message;
    }
    await answered;
    this.ended = true;
    if (this.search.running) this.search.apply({ type: "cancelled", at_s: this.now });
    this.onChange();
  }

  stop() {
    this.abort.abort();
  }

  // Seconds since the search began, going on while nothing is heard.
  get now() {
    const { search } = this;
    return search.running && !this.ended ? search.at + (performance.now() - this.heardAt) / 1000 : search.at;
  }
}

// Starts searches and renders at most once a frame, however many events come; a slow clock moves the calls that are out.
export function useLiveSearch() {
  const [, render] = useReducer((count) => count + 1, 0);
  const live = useRef(null);
  const frame = useRef(0);
  const changed = () => {
    frame.current ||= requestAnimationFrame(() => {
      frame.current = 0;
      render();
    });
  };
  useEffect(() => {
    const clock = setInterval(() => live.current && !live.current.ended && changed(), 120);
    return () => {
      clearInterval(clock);
      live.current?.stop();
    };
  }, []);
  const start = (body) => {
    live.current?.stop();
    live.current = new LiveSearch(body, changed);
    live.current.run();
    render();
  };
  return [live.current, start];
}
