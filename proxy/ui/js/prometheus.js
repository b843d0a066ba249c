// Prometheus' text format, as much of it as `/metrics` uses: samples by name, each with its labels.

const SAMPLE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

export class Samples {
  constructor(text) {
    this.byName = new Map();
    for (const line of text.split("\n")) {
      const [, name, labels = "", value] = SAMPLE.exec(line) ?? [];
      if (!name) continue;
      if (!this.byName.has(name)) this.byName.set(name, []);
      const named = Object.fromEntries([...labels.matchAll(LABEL)].map(([, key, raw]) => [key, raw.replace(/\\(.)/g, "$1")]));
      this.byName.get(name).push({ labels: named, value: Number(value) });
    }
  }

  // The sum of the samples whose labels are these; 0 where there are none.
  sum(name, labels = {}) {
    const wanted = Object.entries(labels);
    return (this.byName.get(name) ?? [])
      .filter((sample) => wanted.every(([key, value]) => sample.labels[key] === value))
      .reduce((total, sample) => total + sample.value, 0);
  }

  // A histogram's or summary's mean; null where nothing was counted.
  mean(name, labels = {}) {
    const number = this.sum(`${name}_count`, labels);
    return number ? this.sum(`${name}_sum`, labels) / number : null;
  }

  values(name, label) {
    return [...new Set((this.byName.get(name) ?? []).map((sample) => sample.labels[label]).filter(Boolean))];
  }
}
