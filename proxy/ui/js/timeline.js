// When each call ran, and what came of it: solid what the answer rests on, pale what was dropped, striped what was lost.
import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./html.js";
import { isDropped, isLost, seconds } from "./explain.js";
import { lanesOf } from "./lanes.js";
import { onThemeChange, readPalette } from "./palette.js";
import { sized } from "./picture.js";
import { markOf, tracePath } from "./teachers.js";

const LABELS = 88;
const AXIS = 20;
const GAP = 7;
const TALLEST = 230;

export function Timeline({ search, now, until, selected, onSelect }) {
  const box = useRef(null);
  const canvas = useRef(null);
  const [hovered, setHovered] = useState(null);
  const chart = useMemo(() => lanesOf(search, now), [search, search.count, now]);
  const room = TALLEST - AXIS - chart.groups.length * GAP;
  const lane = Math.min(12, Math.max(0.8, room / Math.max(1, chart.lanes)));
  const height = AXIS + chart.groups.reduce((sum, group) => sum + groupHeight(group, lane) + GAP, 0);
  const span = Math.max(until ?? 0, now, 0.001);

  const paint = () => {
    if (!box.current) return; // the page was left
    const width = box.current.clientWidth;
    drawTimeline(sized(canvas.current, width, height), { search, chart, lane, width, height, span, selected, hovered });
  };
  const painter = useRef(paint);
  painter.current = paint;
  useLayoutEffect(paint);
  useEffect(() => {
    const again = () => painter.current();
    const observer = new ResizeObserver(again);
    observer.observe(box.current);
    const stop = onThemeChange(again);
    return () => {
      observer.disconnect();
      stop();
    };
  }, []);

  const barUnder = (event) => {
    const edge = box.current.getBoundingClientRect();
    return barAt(chart, lane, span, box.current.clientWidth, event.clientX - edge.left, event.clientY - edge.top);
  };
  const label = chart.groups.map((group) => `${group.name}: ${group.bars.length}`).join(", ");
  return html`<div
    class="timeline" ref=${box} style=${{ height: `${height}px` }} role="img"
    aria-label=${`Calls over ${seconds(span)}: ${label}`}
    onPointerMove=${(event) => setHovered(barUnder(event))} onPointerLeave=${() => setHovered(null)}
    onClick=${(event) => onSelect(barUnder(event)?.id ?? null)}
  >
    <canvas ref=${canvas} aria-hidden="true"></canvas>
  </div>`;
}

const groupHeight = (group, lane) => Math.max(12, Math.max(1, group.lanes) * lane);

function* placed(chart, lane) {
  let y = 2;
  for (const group of chart.groups) {
    yield [group, y];
    y += groupHeight(group, lane) + GAP;
  }
}

function barAt(chart, lane, span, width, x, y) {
  const time = ((x - LABELS) / (width - LABELS - 8)) * span;
  const slack = (3 / (width - LABELS)) * span;
  for (const [group, top] of placed(chart, lane)) {
    if (y < top || y > top + groupHeight(group, lane)) continue;
    const row = Math.floor((y - top) / lane);
    return group.bars.find((bar) => bar.lane === row && bar.from - slack <= time && time <= bar.to + slack) ?? null;
  }
  return null;
}

function drawTimeline(context, { search, chart, lane, width, height, span, selected, hovered }) {
  const palette = readPalette();
  const scale = (width - LABELS - 8) / span;
  context.clearRect(0, 0, width, height);
  context.font = "11px system-ui, sans-serif";
  context.textBaseline = "middle";
  drawAxis(context, { palette, scale, span, height });
  for (const [group, top] of placed(chart, lane)) {
    const colour = group.isScorer ? palette.muted : palette.teachers[markOf(search.teachers, group.name).colour];
    if (!group.isScorer) {
      context.fillStyle = colour;
      tracePath(context, markOf(search.teachers, group.name).points, 8, top + 6, 5);
      context.fill();
    }
    context.fillStyle = palette.text;
    context.fillText(group.name, 19, top + 6.5, LABELS - 24);
    for (const bar of group.bars) {
      const active = (selected !== null && bar.id === selected) || bar === hovered;
      drawBar(context, bar, { colour, palette, lane, top, scale, active });
    }
  }
}

function drawBar(context, bar, { colour, palette, lane, top, scale, active }) {
  const x = LABELS + bar.from * scale;
  const w = Math.max(1.5, (bar.to - bar.from) * scale);
  const y = top + bar.lane * lane;
  const h = lane > 4 ? lane - 2 : lane * 0.7;
  const candidate = bar.candidate;
  const won = bar.answer || candidate?.committed || candidate?.fate === "won";
  const lost = (candidate && isLost(candidate)) || bar.answer?.kind;
  context.globalAlpha = bar.scoring ? 0.6 : won || active ? 1 : candidate && isDropped(candidate) ? 0.35 : 0.75;
  context.fillStyle = colour;
  if (lost) {
    context.strokeStyle = palette.bad;
    context.lineWidth = 1;
    context.strokeRect(x + 0.5, y + 0.5, Math.max(1, w - 1), Math.max(1, h - 1));
    context.globalAlpha = 0.25;
    context.fillStyle = palette.bad;
  }
  context.fillRect(x, y, w, h);
  context.globalAlpha = 1;
  if (active) {
    context.strokeStyle = palette.text;
    context.lineWidth = 1.5;
    context.strokeRect(x - 1, y - 1, w + 2, h + 2);
  }
}

function drawAxis(context, { palette, scale, span, height }) {
  const tick = niceTick(span);
  context.strokeStyle = palette.line;
  context.fillStyle = palette.muted;
  context.lineWidth = 1;
  for (let time = 0, i = 0; time <= span + 1e-9; i += 1, time = i * tick) {
    const x = Math.round(LABELS + time * scale) + 0.5;
    context.beginPath();
    context.moveTo(x, 0);
    context.lineTo(x, height - AXIS + 4);
    context.stroke();
    context.textAlign = time === 0 ? "left" : x > LABELS + span * scale - 16 ? "right" : "center";
    context.fillText(`${Number(time.toPrecision(3))} s`, x, height - AXIS / 2 + 2);
  }
  context.textAlign = "left";
}

function niceTick(span) {
  const rough = span / 6;
  const unit = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((step) => step * unit).find((step) => step >= rough);
}
