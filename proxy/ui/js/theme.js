// Light, dark, or as the system has it.
import { html, useState } from "./html.js";
import { themeChanged } from "./palette.js";

const KEY = "cord-theme";
const NEXT = { system: "light", light: "dark", dark: "system" };
const LABELS = { system: "Theme: system", light: "Theme: light", dark: "Theme: dark" };

const stored = () => {
  try {
    return localStorage.getItem(KEY) ?? "system";
  } catch {
    return "system"; // a file opened from disk may have no storage
  }
};

export function applyTheme(theme = stored()) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  themeChanged();
}

export function ThemeButton() {
  const [theme, setTheme] = useState(stored);
  const turn = () => {
    const next = NEXT[theme];
    try {
      localStorage.setItem(KEY, next);
    } catch {
      // It lasts until the page is left.
    }
    applyTheme(next);
    setTheme(next);
  };
  return html`<button class="quiet theme" onClick=${turn}>${LABELS[theme]}</button>`;
}
