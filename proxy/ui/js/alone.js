// A trace in a file of its own, as `cord view` writes it: the same picture, without a server.
import { html, render } from "./html.js";
import { applyTheme, ThemeButton } from "./theme.js";
import { TraceView } from "./trace.js";

applyTheme();
const trace = JSON.parse(document.getElementById("trace").textContent);
document.title = `CoRD trace ${trace.id}`;
render(
  html`<header class="top"><strong>CoRD</strong><span class="faint">trace ${trace.id}</span><${ThemeButton} /></header>
    <main id="main" class="trace"><${TraceView} trace=${trace} /></main>`,
  document.getElementById("app"),
);
