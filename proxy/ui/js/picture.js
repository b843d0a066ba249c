// The search tree: a canvas under a scroller. Arrow keys move between candidates; what is chosen is told in words beside.
import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./html.js";
import { drawTree } from "./draw.js";
import { count, fateText, score } from "./explain.js";
import { densityFor, layoutOf, neighbour, nodeAt } from "./layout.js";
import { onThemeChange, readPalette } from "./palette.js";

const TALLEST = 440;

export function Picture({ search, selected, onSelect, follow }) {
  const scroller = useRef(null);
  const canvas = useRef(null);
  const [wish, setWish] = useState(null);
  const [hovered, setHovered] = useState(null);
  const followed = useRef(true);
  const density = wish ?? densityFor(search);
  // The search is one growing object: its count of events tells whether it has changed.
  const layout = useMemo(() => layoutOf(search, density), [search, search.count, density]);
  const height = Math.min(TALLEST, Math.max(160, layout.height + 4));

  const paint = () => {
    if (!scroller.current) return; // the page was left
    const { clientWidth: width, clientHeight, scrollLeft: left, scrollTop: top } = scroller.current;
    const context = sized(canvas.current, width, clientHeight);
    const view = { left, top, width, height: clientHeight };
    drawTree(context, { search, layout, view, palette: readPalette(), selected, hovered });
  };
  const painter = useRef(paint);
  painter.current = paint;

  useLayoutEffect(() => {
    const box = scroller.current;
    if (follow && followed.current) box.scrollLeft = box.scrollWidth;
    paint();
  });
  useEffect(() => {
    const again = () => painter.current();
    const observer = new ResizeObserver(again);
    observer.observe(scroller.current);
    const stop = onThemeChange(again);
    return () => {
      observer.disconnect();
      stop();
    };
  }, []);
  useEffect(() => {
    if (selected !== null) reveal(scroller.current, layout.nodes.get(selected));
  }, [selected]);

  const idUnder = (event) => {
    const box = scroller.current;
    const edge = box.getBoundingClientRect();
    return nodeAt(layout, event.clientX - edge.left + box.scrollLeft, event.clientY - edge.top + box.scrollTop);
  };
  const onKeyDown = (event) => {
    if (event.key === "Escape") return onSelect(null);
    const next = neighbour(search, layout, selected, event.key);
    if (next === null) return;
    event.preventDefault();
    onSelect(next);
  };
  const onScroll = () => {
    const box = scroller.current;
    followed.current = box.scrollLeft + box.clientWidth >= box.scrollWidth - 40;
    paint();
  };
  const spacer = { width: `${layout.width}px`, height: `${layout.height}px` };
  return html`<div class="picture" style=${{ height: `${height}px` }}>
    <canvas ref=${canvas} aria-hidden="true"></canvas>
    <div
      class="scroller" ref=${scroller} tabindex="0" role="application"
      aria-label=${`Search tree, ${count(search.candidates.size, "candidate")}. Arrow keys move between candidates.`}
      aria-describedby="chosen" onScroll=${onScroll} onKeyDown=${onKeyDown}
      onPointerMove=${(event) => setHovered(idUnder(event))} onPointerLeave=${() => setHovered(null)}
      onClick=${(event) => onSelect(idUnder(event))}
    >
      <div style=${spacer}></div>
    </div>
    <${Hint} search=${search} layout=${layout} id=${hovered} scroller=${scroller} />
    <button class="quiet density" onClick=${() => setWish(density === "cards" ? "dots" : "cards")}>
      ${density === "cards" ? "Small" : "Large"}
    </button>
  </div>`;
}

// The canvas in device pixels; the context draws in CSS pixels.
export function sized(canvas, width, height) {
  const ratio = devicePixelRatio || 1;
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) {
    Object.assign(canvas, { width: w, height: h });
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
}

function reveal(box, node) {
  if (!node) return;
  const margin = 40;
  if (node.x < box.scrollLeft + margin) box.scrollLeft = node.x - margin;
  else if (node.x + node.width > box.scrollLeft + box.clientWidth - margin) box.scrollLeft = node.x + node.width - box.clientWidth + margin;
  if (node.y < box.scrollTop + margin) box.scrollTop = node.y - margin;
  else if (node.y + node.height > box.scrollTop + box.clientHeight) box.scrollTop = node.y + node.height - box.clientHeight + margin;
}

function Hint({ search, layout, id, scroller }) {
  const node = layout.nodes.get(id);
  const candidate = search.candidates.get(id);
  if (!node || !candidate) return null;
  const box = scroller.current;
  const x = node.x - box.scrollLeft;
  const y = node.y - box.scrollTop + node.height + 6;
  const place = { left: `${Math.max(4, Math.min(x, box.clientWidth - 250))}px`, top: `${y}px` };
  return html`<div class="hint" style=${place}>
    <b>${candidate.teacher}</b> · ${score(search.value(candidate))}<br />${fateText(candidate)}
  </div>`;
}
