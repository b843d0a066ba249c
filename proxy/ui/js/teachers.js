// A teacher's mark: one colour and one shape each, so that nothing hangs on colour alone.
import { html } from "./html.js";

const ring = (corners, turn = -90, inner = null) =>
  Array.from({ length: inner ? corners * 2 : corners }, (_, i) => {
    const angle = ((turn + (i * 360) / (inner ? corners * 2 : corners)) * Math.PI) / 180;
    const radius = inner && i % 2 ? inner : 1;
    return [radius * Math.cos(angle), radius * Math.sin(angle)];
  });

// Each fills about the same area of a unit circle. The circle itself is a polygon fine enough to look round.
const SHAPES = [
  ["circle", ring(28).map(([x, y]) => [x * 0.88, y * 0.88])],
  ["square", ring(4, 45).map(([x, y]) => [x * 1.12, y * 1.12])],
  ["triangle", ring(3).map(([x, y]) => [x * 1.15, y * 1.15 + 0.18])],
  ["diamond", ring(4).map(([x, y]) => [x * 0.95, y * 1.18])],
  ["hexagon", ring(6, 0)],
  ["star", ring(5, -90, 0.48).map(([x, y]) => [x * 1.2, y * 1.2])],
  ["cross", [[-0.35, -1], [0.35, -1], [0.35, -0.35], [1, -0.35], [1, 0.35], [0.35, 0.35], [0.35, 1], [-0.35, 1], [-0.35, 0.35], [-1, 0.35], [-1, -0.35], [-0.35, -0.35]]],
  ["wedge", ring(3, 90).map(([x, y]) => [x * 1.15, y * 1.15 - 0.18])],
];

export const COLOURS = SHAPES.length;

export function markOf(teachers, name) {
  const index = Math.max(0, teachers.indexOf(name));
  const [shape, points] = SHAPES[(index + Math.floor(index / SHAPES.length)) % SHAPES.length];
  return { colour: index % COLOURS, shape, points };
}

export function tracePath(context, points, x, y, radius) {
  context.beginPath();
  points.forEach(([dx, dy], i) => context[i ? "lineTo" : "moveTo"](x + dx * radius, y + dy * radius));
  context.closePath();
}

export function Mark({ teachers, name }) {
  const { colour, points } = markOf(teachers, name);
  const corners = points.map(([x, y]) => `${(x * 6 + 7.5).toFixed(2)},${(y * 6 + 7.5).toFixed(2)}`).join(" ");
  return html`<svg class="mark" viewBox="0 0 15 15" width="15" height="15" aria-hidden="true">
    <polygon points=${corners} style=${{ fill: `var(--t${colour})` }} />
  </svg>`;
}

export function Teacher({ teachers, name }) {
  return html`<span class="teacher"><${Mark} teachers=${teachers} name=${name} />${name}</span>`;
}
