// Server-sent events out of a fetched stream. `EventSource` would do but for the key: it cannot send a header.

export async function* serverEvents(response) {
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += decoder.decode(value, { stream: true });
    const frames = rest.split("\n\n");
    rest = frames.pop();
    for (const frame of frames) {
      const event = { id: null, data: [] };
      for (const line of frame.split("\n")) {
        const [, name, text] = /^(\w+): ?(.*)$/s.exec(line) ?? [];
        if (name === "data") event.data.push(text);
        else if (name === "id") event.id = text;
      }
      if (event.data.length) yield { id: event.id, data: event.data.join("\n") };
    }
  }
}
