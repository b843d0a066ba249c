// The style sheet's colours, for what is drawn on a canvas. Read again when the theme changes.
import { COLOURS } from "./teachers.js";

const NAMES = ["surface", "sunken", "line", "text", "muted", "accent", "accent-soft", "bad", "good"];

export function readPalette() {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(`--${name}`).trim();
  const colours = Object.fromEntries(NAMES.map((name) => [name.replace("-s", "S"), read(name)]));
  return { ...colours, teachers: Array.from({ length: COLOURS }, (_, i) => read(`t${i}`)) };
}

const listeners = new Set();

export function onThemeChange(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export const themeChanged = () => listeners.forEach((listener) => listener());

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", themeChanged);
