// A stored search, replayed: the picture as it was at any moment.
import { html, useEffect, useMemo, useRef, useState } from "./html.js";
import { seconds } from "./explain.js";
import { Search } from "./search.js";
import { Stage } from "./stage.js";

const LONGEST_S = 15; // a replay takes no longer, however long the search took

export function Replay({ events, children }) {
  const end = events.at(-1)?.at_s ?? 0;
  const [at, setAt] = useState(null); // null: the end
  const [playing, setPlaying] = useState(false);
  const last = useRef(null);
  const time = at ?? end;
  const shown = useMemo(() => {
    last.current = Search.upTo(events, at === null ? events.length : eventsUntil(events, at), last.current);
    return last.current;
  }, [events, at]);

  useEffect(() => {
    if (!playing) return undefined;
    const speed = Math.max(1, end / LONGEST_S);
    const began = performance.now() - (time / speed) * 1000;
    let frame = requestAnimationFrame(function next(now) {
      const reached = ((now - began) / 1000) * speed;
      setAt(reached < end ? reached : null);
      if (reached < end) frame = requestAnimationFrame(next);
      else setPlaying(false);
    });
    return () => cancelAnimationFrame(frame);
  }, [playing]);

  const toggle = () => {
    if (!playing && at === null) setAt(0);
    setPlaying(!playing);
  };
  const move = (event) => {
    setPlaying(false);
    const value = Number(event.target.value);
    setAt(value >= end ? null : value);
  };
  return html`<div class="replay">
    <div class="scrubber">
      <button onClick=${toggle}>${playing ? "Pause" : "Replay"}</button>
      <input type="range" min="0" max=${end} step="any" value=${time} onInput=${move} aria-label="Moment of the search" aria-valuetext=${seconds(time)} />
      <span>${seconds(time)} of ${seconds(end)}</span>
    </div>
    <${Stage} search=${shown} now=${Math.min(time, end)} until=${end} follow=${playing}>${children}<//>
  </div>`;
}

// How many events had happened at a moment.
function eventsUntil(events, time) {
  let [low, high] = [0, events.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (events[middle].at_s <= time) low = middle + 1;
    else high = middle;
  }
  return low;
}
