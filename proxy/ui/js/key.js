// Asks for the server's key when it wants one.
import { html, useEffect, useRef, useState } from "./html.js";
import { storedKey, storeKey } from "./client.js";

export function KeyDialog({ onKey }) {
  const dialog = useRef(null);
  const [key, setKey] = useState("");
  useEffect(() => dialog.current.showModal(), []);
  const submit = (event) => {
    event.preventDefault();
    storeKey(key.trim());
    onKey();
  };
  return html`<dialog ref=${dialog} aria-labelledby="key-title" onCancel=${(event) => event.preventDefault()}>
    <form onSubmit=${submit}>
      <h2 id="key-title">This server asks for a key</h2>
      <p>${storedKey() ? "The key you gave is not known here." : "It stays in this tab and is forgotten when you close it."}</p>
      <label>Key <input type="password" required autofocus autocomplete="off" value=${key} onInput=${(event) => setKey(event.target.value)} /></label>
      <button class="primary">Go on</button>
    </form>
  </dialog>`;
}
