// Where every candidate stands: a column a step, a row a hypothesis. Pure geometry; nothing is drawn here.
import { isDropped } from "./explain.js";

export const HEADER = 30;

const SIZES = {
  cards: { width: 188, height: 46, column: 230, row: 54, left: 34, radius: 6 },
  dots: { width: 10, height: 10, column: 74, row: 13, left: 34, radius: 4.5 },
};

export const CARD_LIMIT = 400;

// Cards as long as they can be read; beyond that, dots.
export function densityFor(search) {
  const tallest = search.depths.reduce((most, depth) => Math.max(most, depth.ids.length), 0);
  return search.candidates.size > CARD_LIMIT || tallest > 40 ? "dots" : "cards";
}

export function layoutOf(search, density) {
  const size = SIZES[density];
  const rows = new Map();
  const nodes = new Map();
  const columns = search.depths.map((depth, i) => {
    const ids = inOrder(search, depth, rows);
    const x = size.left + i * size.column;
    ids.forEach((id, row) => {
      rows.set(id, row);
      nodes.set(id, { id, x, y: HEADER + 10 + row * size.row, width: size.width, height: size.height });
    });
    return { depth: i + 1, x, ids };
  });
  const tallest = columns.reduce((most, column) => Math.max(most, column.ids.length), 1);
  return {
    density, size, nodes, columns,
    width: size.left + Math.max(1, columns.length) * size.column,
    height: HEADER + 14 + tallest * size.row,
  };
}

// Undecided, candidates stand beside their parents and do not move as they land; what is dropped goes below. Decided, the living come first.
function inOrder(search, depth, rows) {
  const parentRow = (id) => rows.get(search.candidates.get(id).parent) ?? 0;
  const fallen = (id) => Number(isDropped(search.candidates.get(id)));
  const byParent = (a, b) => fallen(a) - fallen(b) || parentRow(a) - parentRow(b) || a - b;
  if (depth.decidedAt === null) return [...depth.ids].sort(byParent);
  const rank = new Map([...(depth.beam ?? []), ...depth.finished].map((id, i) => [id, i]));
  const worth = new Map(depth.ids.map((id) => [id, search.value(search.candidates.get(id)) ?? -1]));
  return [...depth.ids].sort(
    (a, b) => (rank.get(a) ?? Infinity) - (rank.get(b) ?? Infinity) || worth.get(b) - worth.get(a) || a - b,
  );
}

export function nodeAt(layout, x, y) {
  const { size } = layout;
  const index = Math.floor((x - size.left + 4) / size.column);
  const column = layout.columns[index];
  const row = Math.floor((y - HEADER - 10 + (size.row - size.height) / 2) / size.row);
  const id = column?.ids[row];
  const node = id === undefined ? null : layout.nodes.get(id);
  return node && x >= node.x - 4 && x <= node.x + node.width + 4 ? id : null;
}

// Which candidate an arrow key leads to.
export function neighbour(search, layout, id, key) {
  const candidate = search.candidates.get(id);
  if (!candidate) return layout.columns[0]?.ids[0] ?? null;
  const column = layout.columns[candidate.depth - 1];
  const row = column.ids.indexOf(id);
  switch (key) {
    case "ArrowUp":
      return column.ids[row - 1] ?? id;
    case "ArrowDown":
      return column.ids[row + 1] ?? id;
    case "ArrowLeft":
      return candidate.parent ?? id;
    case "ArrowRight":
      return layout.columns[candidate.depth]?.ids.find((child) => search.candidates.get(child).parent === id) ?? id;
    case "Home":
      return layout.columns[0].ids[0];
    case "End":
      return layout.columns.at(-1).ids[0];
  }
  return null;
}
