// The view library, bound once: `html` makes elements of template literals. Text in `${…}` becomes text nodes.
import { Fragment, h, render } from "../vendor/preact.js";
import htm from "../vendor/htm.js";

export { useEffect, useLayoutEffect, useMemo, useReducer, useRef, useState } from "../vendor/hooks.js";
export { Fragment, render };
export const html = htm.bind(h);
