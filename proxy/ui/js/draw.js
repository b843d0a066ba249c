// The search tree on a canvas: only what is in view is drawn, so thousands of candidates cost no more than a screenful.
// Text is drawn as pixels: nothing a model wrote can become markup.
import { fateWord, isDropped, isLost, score, stepText } from "./explain.js";
import { HEADER } from "./layout.js";
import { markOf, tracePath } from "./teachers.js";

const SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif";
const MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace";
const MONO_WIDTH = 6.05; // of one character at 10 px

export function drawTree(context, { search, layout, view, palette, selected, hovered }) {
  const { left, top, width, height } = view;
  const pen = { context, search, layout, palette, selected, hovered, onPath: pathSet(search, hovered ?? selected) };
  context.clearRect(0, 0, width, height);
  context.save();
  context.translate(-left, -top);
  const columns = layout.columns.filter(({ x }) => x > left - 2 * layout.size.column && x < left + width + layout.size.column);
  drawFrontier(pen, top, height);
  for (const column of columns) for (const id of column.ids) drawEdge(pen, id, top, height);
  drawRoot(pen);
  const isSeen = ({ y }) => y > top - 60 && y < top + height;
  for (const column of columns) {
    for (const id of column.ids) {
      const node = layout.nodes.get(id);
      if (isSeen(node)) (layout.density === "cards" ? drawCard : drawDot)(pen, search.candidates.get(id), node);
    }
  }
  drawHeader(pen, columns, top, left, width);
  context.restore();
}

const pathSet = (search, id) => new Set(id === null ? [] : search.path(id));

const colourOf = ({ search, palette }, teacher) => palette.teachers[markOf(search.teachers, teacher).colour];

function drawFrontier({ context, search, layout, palette }, top, height) {
  const depth = search.committed.length;
  if (!depth || !search.running) return;
  const { size } = layout;
  context.fillStyle = palette.accentSoft;
  context.fillRect(0, top, size.left + depth * size.column - (size.column - size.width) / 2, height);
}

function drawRoot({ context, layout, palette }) {
  context.fillStyle = palette.muted;
  context.beginPath();
  context.arc(12, HEADER + 10 + layout.size.height / 2, 4, 0, 2 * Math.PI);
  context.fill();
}

function drawEdge(pen, id, top, height) {
  const { context, search, layout, palette, onPath } = pen;
  const candidate = search.candidates.get(id);
  const to = layout.nodes.get(id);
  const from = layout.nodes.get(candidate.parent);
  const middle = layout.size.height / 2;
  const [x1, y1] = from ? [from.x + from.width, from.y + middle] : [16, HEADER + 10 + middle];
  const [x2, y2] = [to.x, to.y + middle];
  if (Math.max(y1, y2) < top || Math.min(y1, y2) > top + height) return;
  const final = candidate.committed || candidate.fate === "won";
  const dropped = isDropped(candidate);
  context.strokeStyle = final ? palette.accent : onPath.has(id) ? palette.text : palette.line;
  context.globalAlpha = dropped && !onPath.has(id) ? 0.45 : 1;
  context.lineWidth = final ? 2.5 : onPath.has(id) ? 1.8 : 1.2;
  context.setLineDash(candidate.landed_s === null ? [3, 3] : []);
  context.beginPath();
  context.moveTo(x1, y1);
  const bend = (x2 - x1) / 2;
  context.bezierCurveTo(x1 + bend, y1, x2 - bend, y2, x2, y2);
  context.stroke();
  context.setLineDash([]);
  context.globalAlpha = 1;
}

function drawCard(pen, candidate, { x, y, width, height }) {
  const { context, search, palette, selected, hovered, onPath } = pen;
  const colour = colourOf(pen, candidate.teacher);
  const final = candidate.committed || candidate.fate === "won";
  const active = candidate.id === selected || candidate.id === hovered;
  const waiting = candidate.landed_s === null;
  context.globalAlpha = isDropped(candidate) && !active && !onPath.has(candidate.id) ? 0.5 : 1;
  context.beginPath();
  context.roundRect(x, y, width, height, 6);
  context.fillStyle = palette.surface;
  context.fill();
  context.lineWidth = active || final ? 2 : 1;
  context.strokeStyle = active ? palette.text : final ? palette.accent : isLost(candidate) ? palette.bad : palette.line;
  context.setLineDash(waiting ? [4, 3] : []);
  context.stroke();
  context.setLineDash([]);

  context.fillStyle = colour;
  tracePath(context, markOf(search.teachers, candidate.teacher).points, x + 14, y + 15, 5.5);
  context.fill();

  const value = search.value(candidate);
  context.font = `600 11.5px ${SANS}`;
  context.fillStyle = palette.text;
  context.textBaseline = "middle";
  context.fillText(candidate.teacher, x + 26, y + 15.5, 56);
  context.textAlign = "right";
  if (value !== null) {
    context.font = `600 11px ${MONO}`;
    context.fillText(score(value), x + width - 9, y + 15.5);
  }
  const word = isDropped(candidate) ? fateWord(candidate) : waiting ? (candidate.speculative ? "in advance…" : "writing…") : "";
  context.font = `10.5px ${SANS}`;
  context.fillStyle = isLost(candidate) ? palette.bad : palette.muted;
  context.fillText(word, x + width - (value === null ? 9 : 50), y + 15.5, 76);
  context.textAlign = "left";

  context.font = `10px ${MONO}`;
  context.fillStyle = palette.muted;
  context.fillText(excerpt(candidate, Math.floor((width - 18) / MONO_WIDTH)), x + 9, y + 32, width - 18);
  if (value !== null) {
    context.fillStyle = colour;
    context.fillRect(x + 9, y + height - 5, Math.max(1, (width - 18) * Math.min(1, value)), 2);
  }
  context.globalAlpha = 1;
}

function excerpt(candidate, most) {
  const text = (stepText(candidate.text) || candidate.reason || "").slice(0, 400).replace(/\s+/g, " ");
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}

function drawDot(pen, candidate, { x, y, height }) {
  const { context, search, layout, palette, selected, hovered, onPath } = pen;
  const final = candidate.committed || candidate.fate === "won";
  const active = candidate.id === selected || candidate.id === hovered;
  const middle = y + height / 2;
  const { points } = markOf(search.teachers, candidate.teacher);
  const colour = isLost(candidate) ? palette.bad : colourOf(pen, candidate.teacher);
  context.globalAlpha = isDropped(candidate) && !active && !onPath.has(candidate.id) ? 0.35 : 1;
  tracePath(context, points, x + 5, middle, final || active ? layout.size.radius + 1.5 : layout.size.radius);
  if (candidate.landed_s === null) {
    context.strokeStyle = colour;
    context.lineWidth = 1;
    context.stroke();
  } else {
    context.fillStyle = colour;
    context.fill();
  }
  if (final || active) {
    context.strokeStyle = active ? palette.text : palette.accent;
    context.lineWidth = 1.5;
    context.stroke();
  }
  const value = search.value(candidate);
  if (value !== null) context.fillRect(x + 14, middle - 1, 30 * Math.min(1, value), 2);
  context.globalAlpha = 1;
}

function drawHeader({ context, search, layout, palette }, columns, top, left, width) {
  context.fillStyle = palette.sunken;
  context.fillRect(left, top, width, HEADER - 6);
  context.font = `600 11px ${SANS}`;
  context.textBaseline = "middle";
  for (const { depth, x, ids } of columns) {
    const final = depth <= search.committed.length;
    context.fillStyle = final ? palette.accent : palette.text;
    const wide = layout.density === "cards";
    const title = wide ? `Step ${depth}${final ? " · final" : ""}` : `${depth}${final ? " ✓" : ""}`;
    context.fillText(title, x, top + 12);
    if (wide) {
      context.font = `11px ${SANS}`;
      context.fillStyle = palette.muted;
      context.textAlign = "right";
      const living = ids.filter((id) => !isDropped(search.candidates.get(id))).length;
      context.fillText(`${living} of ${ids.length}`, x + layout.size.width, top + 12);
      context.textAlign = "left";
      context.font = `600 11px ${SANS}`;
    }
  }
}
