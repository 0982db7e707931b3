"use strict";
// The sliders and pictures of the page. All data is in the element #data; nothing is fetched.

const { ladders, curves } = JSON.parse(document.getElementById("data").textContent);
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");
const FLOAT = 4; // bytes
const WHOLE_RUN_SECONDS = 30;
const TRAIL = 48; // touches that can still be seen
const LINE = 15; // the height of a line of a drawing's text

// ------------------------------------------------------------------------------------ the cache
// The same model as tvm_practice/common/cache.py; a test holds the two together.

class Hierarchy {
  constructor(levels) {
    this.levels = levels;
    this.sets = levels.map((level) => Array.from({ length: level.sets }, () => new Map()));
  }

  // The number of levels that lacked the line. A Map keeps its keys in the order of insertion: the
  // first is the least recently used.
  touch(line) {
    for (let missed = 0; missed < this.levels.length; missed++) {
      const { sets, ways } = this.levels[missed];
      const kept = this.sets[missed][line % sets];
      const here = kept.delete(line);
      kept.set(line, true);
      if (here) return missed;
      if (kept.size > ways) kept.delete(kept.keys().next().value);
    }
    return this.levels.length;
  }

  holder(line) {
    const place = this.sets.findIndex((sets, n) => sets[line % this.levels[n].sets].has(line));
    return place < 0 ? this.levels.length : place;
  }
}

// ---------------------------------------------------------------------------------- the program
// Loops around reads and writes, as tvm_practice/common/accesses.py describes them.

const OPERATORS = {
  "+": (a, b) => a + b,
  "-": (a, b) => a - b,
  "*": (a, b) => a * b,
  "//": (a, b) => Math.floor(a / b),
  "%": (a, b) => a - b * Math.floor(a / b),
  min: Math.min,
  max: Math.max,
  "<": (a, b) => +(a < b),
  "<=": (a, b) => +(a <= b),
  ">": (a, b) => +(a > b),
  ">=": (a, b) => +(a >= b),
  "==": (a, b) => +(a === b),
  "!=": (a, b) => +(a !== b),
  and: (a, b) => +(a && b),
  or: (a, b) => +(a || b),
};

function compiled(expression, values) {
  if (typeof expression === "number") return () => expression;
  if (expression[0] === "v") return () => values[expression[1]];
  const [operator, left, right] = expression;
  const [apply, a, b] = [OPERATORS[operator], compiled(left, values), compiled(right, values)];
  return () => apply(a(), b());
}

// Every access of a program in its order. `loops` has the value of each loop at each access, -1
// where it does not run.
function traced(program) {
  const found = { buffer: [], place: [], write: [], loops: [] };
  const values = new Int32Array(program.loops.length).fill(-1);
  const body = (nodes) => {
    const steps = nodes.map(node);
    return () => steps.forEach((step) => step());
  };
  const node = ([kind, ...rest]) => {
    if (kind === "for") {
      const [variable, extent, inner] = rest;
      const inside = body(inner);
      return () => {
        for (let n = 0; n < extent; n++) {
          values[variable] = n;
          inside();
        }
        values[variable] = -1;
      };
    }
    if (kind === "if") {
      const [condition, then, other] = [compiled(rest[0], values), body(rest[1]), body(rest[2])];
      return () => (condition() ? then() : other());
    }
    const [buffer, offset] = [rest[0], compiled(rest[1], values)];
    return () => {
      found.buffer.push(buffer);
      found.place.push(offset());
      found.write.push(kind === "w");
      found.loops.push(...values);
    };
  };
  body(program.body)();
  return { ...found, length: found.buffer.length };
}

// Where each element of an array is drawn: rows of a matrix, panels side by side, a vector wrapped.
function drawn(shape) {
  const size = shape.reduce((a, b) => a * b, 1);
  if (shape.length === 3) {
    const [panels, rows, columns] = shape;
    const at = (n) => [
      Math.floor(n / (rows * columns)) * (columns + 1) + (n % columns),
      Math.floor(n / columns) % rows,
    ];
    return { size, width: panels * (columns + 1) - 1, height: rows, at };
  }
  const width = shape.length === 1 ? Math.min(32, size) : shape[shape.length - 1];
  return {
    size,
    width,
    height: Math.ceil(size / width),
    at: (n) => [n % width, Math.floor(n / width)],
  };
}

// ------------------------------------------------------------------------------------ one ladder

class Ladder {
  constructor(section, data) {
    Object.assign(this, { section, data, position: 0, playing: false });
    this.find = (selector) => section.querySelector(selector);
    this.slider = this.find(".step");
    this.scrub = this.find(".position");
    this.slider.addEventListener("input", () => this.show(+this.slider.value));
    this.scrub.addEventListener("input", () => this.pause().moveTo(+this.scrub.value));
    this.find(".previous").addEventListener("click", () => this.show(this.number - 1));
    this.find(".next").addEventListener("click", () => this.show(this.number + 1));
    this.find(".play").addEventListener("click", () => (this.playing ? this.pause() : this.play()));
    this.find(".one").addEventListener("click", () => this.pause().moveTo(this.position + 1));
    this.nameParts();
    this.missesChart = chart(this.find(".misses-by-step .chart"), (width) => this.missBars(width));
    const times = this.find(".time-by-step .chart");
    if (times) this.timesChart = chart(times, (width) => this.timeDots(width));
    this.show(0);
  }

  get steps() {
    return this.data.steps;
  }

  // Which exercise or rung each stretch of the slider belongs to.
  nameParts() {
    const parts = this.find(".parts");
    this.parts = [];
    this.steps.forEach(({ part }, n) => {
      const last = this.parts.at(-1);
      if (last?.name === part) last.count++;
      else this.parts.push({ name: part, first: n, count: 1 });
    });
    for (const { name, first, count } of this.parts) {
      const button = element("button", { type: "button", tabindex: -1, title: name }, name);
      button.style.flexGrow = count;
      button.addEventListener("click", () => this.show(first + count - 1));
      parts.append(button);
    }
  }

  show(number) {
    this.number = Math.max(0, Math.min(this.steps.length - 1, number));
    const step = (this.step = this.steps[this.number]);
    this.slider.value = this.number;
    const called = step.call || "before the first primitive";
    this.slider.setAttribute(
      "aria-valuetext",
      `${this.number} of ${this.steps.length - 1}, ${step.part}: ${called}`,
    );
    this.find(".call").replaceChildren(
      element("span", { class: "number" }, `${this.number} of ${this.steps.length - 1}`),
      element("span", { class: "part" }, step.part),
      element(step.call ? "code" : "span", {}, called),
    );
    this.find(".changes").replaceChildren(...step.changes.map((one) => element("li", {}, one)));
    [...this.find(".parts").children].forEach((button, n) =>
      button.classList.toggle("current", this.parts[n].name === step.part),
    );
    this.showNest(step.lines);
    this.load(step.program);
    this.missesChart.draw();
    this.timesChart?.draw();
    this.section.dispatchEvent(new CustomEvent("step", { detail: step.part }));
  }

  // Line n that opens a loop is loop n of the program: both are in the order of the text.
  showNest(lines) {
    this.loopValues = [];
    this.find(".lines").replaceChildren(
      ...lines.map(([mark, depth, text]) => {
        const name = { "+": "added", "-": "removed", "": "same" }[mark];
        const item = element("li", { class: name });
        item.style.setProperty("--depth", depth);
        item.append(
          element("span", { class: "mark" }, { "+": "+", "-": "−", "": "" }[mark]),
          element("span", { class: "text" }, text),
        );
        const loop = /^for (\w+) in /.exec(text);
        if (loop && mark !== "-") {
          const value = element("span", { class: "value", "aria-hidden": "true" });
          item.append(value);
          this.loopValues.push(value);
        }
        return item;
      }),
    );
  }

  load(program) {
    this.pause();
    this.trace = traced(program);
    this.floats = this.data.levels[0].line_bytes / FLOAT;
    this.starts = [];
    let following = 0;
    program.buffers.forEach((buffer, n) => {
      this.starts[n] = following;
      const { size } = drawn(buffer.shape);
      if (!buffer.registers) following += Math.ceil(size / this.floats);
    });
    this.pictures = program.buffers.map((buffer) => new Picture(buffer));
    this.find(".buffers").replaceChildren(...this.pictures.map((one) => one.figure));
    this.rows = program.buffers.map((buffer) => {
      if (buffer.registers) return null;
      const cells = Array.from({ length: this.data.levels.length + 1 }, () =>
        element("td", { class: "number" }),
      );
      const row = element("tr", { "data-array": buffer.name });
      row.append(element("th", { scope: "row" }, buffer.name), ...cells);
      return { row, cells, totals: this.step.misses[buffer.name] };
    });
    this.find(".counts tbody").replaceChildren(
      ...this.rows.filter((one) => one).map((one) => one.row),
    );
    this.scrub.max = this.trace.length;
    this.rewind();
    this.moveTo(0);
  }

  rewind() {
    this.hierarchy = new Hierarchy(this.data.levels);
    this.counts = this.pictures.map(() => new Array(this.data.levels.length + 1).fill(0));
    this.position = 0;
    this.recent = [];
  }

  // Run to a position; the way there is simulated, backwards from the start again.
  moveTo(position) {
    position = Math.max(0, Math.min(this.trace.length, Math.round(position)));
    if (position < this.position) this.rewind();
    for (; this.position < position; this.position++) {
      const buffer = this.trace.buffer[this.position];
      const place = this.trace.place[this.position];
      let missed = 0;
      if (!this.pictures[buffer].buffer.registers) {
        missed = this.hierarchy.touch(this.line(buffer, place));
        const counts = this.counts[buffer];
        for (let n = 0; n <= missed; n++) counts[n]++;
      }
      if (position - this.position <= TRAIL) {
        this.recent.push({ buffer, place, missed, when: this.position });
      }
    }
    this.recent = this.recent.slice(-TRAIL);
    this.paint();
    return this;
  }

  line(buffer, place) {
    return this.starts[buffer] + Math.floor(place / this.floats);
  }

  paint() {
    const last = this.recent.at(-1);
    this.pictures.forEach((picture, n) => {
      picture.paint(
        (place) => this.hierarchy.holder(this.line(n, place)),
        this.recent.filter((one) => one.buffer === n),
        this.position,
        this.floats,
      );
    });
    this.rows.forEach((one, n) =>
      one?.cells.forEach((cell, column) => {
        const total = one.totals[column].toLocaleString("en");
        cell.replaceChildren(
          element("b", {}, this.counts[n][column].toLocaleString("en")),
          element("small", {}, ` of ${total}`),
        );
      }),
    );
    this.loopValues.forEach((span, loop) => {
      const value = last ? this.trace.loops[last.when * this.loopValues.length + loop] : -1;
      span.textContent = value < 0 ? "" : `= ${value}`;
      span.parentElement.classList.toggle("running", value >= 0);
    });
    this.scrub.value = this.position;
    const total = this.trace.length.toLocaleString("en");
    const told = `${this.position.toLocaleString("en")} of ${total} touches`;
    this.scrub.setAttribute("aria-valuetext", told);
    this.find(".where").textContent = last ? `${told}. ${this.toldOf(last)}` : `${told}.`;
  }

  toldOf({ buffer, place, missed, when }) {
    const { name, shape, registers } = this.pictures[buffer].buffer;
    const indices = [];
    for (let n = shape.length - 1, rest = place; n >= 0; n--) {
      indices.unshift(rest % shape[n]);
      rest = Math.floor(rest / shape[n]);
    }
    const way = this.trace.write[when] ? "writes" : "reads";
    const names = this.data.levels.map((level) => level.name);
    const where = registers
      ? "in a register"
      : ["a hit in " + names[0], ...names.slice(1).map((one) => "from " + one), "from memory"][missed];
    return `The last one ${way} ${name}[${indices.join(", ")}]: ${where}.`;
  }

  play() {
    if (this.position >= this.trace.length) this.rewind();
    this.playing = true;
    this.find(".play").textContent = "❚❚ Pause";
    this.find(".play").setAttribute("aria-label", "Pause the accesses");
    let before = performance.now();
    let reached = this.position;
    let shown = before;
    const frame = (now) => {
      if (!this.playing) return;
      const speed = +this.find(".speed").value || this.trace.length / WHOLE_RUN_SECONDS;
      reached += (speed * (now - before)) / 1000;
      before = now;
      // Who asked for less motion sees two pictures a second, and no movement between them.
      if (!reducedMotion.matches || now - shown > 500) {
        shown = now;
        if (Math.floor(reached) > this.position) this.moveTo(Math.floor(reached));
      }
      if (this.position < this.trace.length) requestAnimationFrame(frame);
      else this.pause();
    };
    requestAnimationFrame(frame);
    return this;
  }

  pause() {
    this.playing = false;
    this.find(".play").textContent = "▶\uFE0E Play";
    this.find(".play").setAttribute("aria-label", "Play the accesses");
    return this;
  }

  // Bars of the misses after each primitive: red what went to memory, blue what L2 had. Where the
  // arrays fit into the cache, nothing misses that could be saved: there the touches count.
  missBars(width) {
    const names = this.data.levels.map((level) => level.name);
    const totals = this.steps.map((step) =>
      Object.values(step.misses).reduce((sum, one) => sum.map((n, k) => n + one[k])),
    );
    const say = (n) => n.toLocaleString("en");
    const small = this.data.small_caches;
    const height_of = ([touches, first]) => (small ? first : touches);
    const told = ([touches, first, second]) =>
      small
        ? `${say(first)} misses, ${say(second)} to memory`
        : `${say(touches)} touches`;
    const top = Math.max(...totals.map(height_of));
    const [left, right, height, bottom] = [60, 8, 180, 26];
    const what = small ? `${names[0]} misses` : "Touches of memory";
    const svg = drawing(width, height + bottom, `${what} after each primitive`);
    const y = (n) => height - ((height - 8) * n) / top;
    const wide = (width - left - right) / totals.length;
    for (const tick of niceTicks(top)) {
      line(svg, left, y(tick), width - right, y(tick), "grid");
      text(svg, left - 6, y(tick) + 4, say(tick), "end");
    }
    totals.forEach((total, n) => {
      const x = left + n * wide;
      const group = add(svg, "g", { class: n === this.number ? "bar current" : "bar" });
      add(group, "title").textContent = `step ${n}: ${told(total)}`;
      add(group, "rect", { class: "hold", x, y: 2, width: wide, height: height - 2 });
      const gap = Math.min(4, wide / 5);
      const size = { x: x + gap / 2, width: wide - gap };
      const near = y(height_of(total));
      const far = small ? y(total[2]) : height;
      add(group, "rect", { class: "near", ...size, y: near, height: far - near });
      add(group, "rect", { class: "far", ...size, y: far, height: height - far });
      group.addEventListener("click", () => this.show(n));
    });
    this.find(".this-count").textContent = `Step ${this.number}: ${told(totals[this.number])}.`;
    text(svg, left, height + 20, "start");
    text(svg, width - right, height + 20, `step ${totals.length - 1}`, "end");
    return svg;
  }

  timeDots(width) {
    const { steps } = this.data.explained;
    const known = steps.map((one, n) => ({ ...one, n })).filter((one) => one.seconds);
    const [low, high] = range(known.map((one) => one.seconds));
    const [left, right, height, bottom] = [64, 12, 190, 26];
    const svg = drawing(width, height + bottom, "Measured time after each primitive, logarithmic");
    const y = (seconds) => 22 + ((height - 30) * Math.log(high / seconds)) / Math.log(high / low);
    const x = (n) => left + ((n + 0.5) * (width - left - right)) / steps.length;
    for (const tick of powers(low, high)) {
      line(svg, left, y(tick), width - right, y(tick), "grid");
      text(svg, left - 6, y(tick) + 4, duration(tick), "end");
    }
    add(svg, "polyline", {
      class: "path",
      points: known.map((one) => `${x(one.n)},${y(one.seconds)}`).join(" "),
    });
    // Primitive n of one size is primitive n of the other only if the two schedules have the same.
    const same =
      steps.length === this.steps.length &&
      steps.every(({ part }, n) => this.steps[n].part.startsWith(part ?? "naive"));
    for (const one of known) {
      const current = same && one.n === this.number;
      const dot = add(svg, "circle", {
        class: current ? "dot current" : "dot",
        cx: x(one.n),
        cy: y(one.seconds),
        r: current ? 7 : 4,
      });
      add(dot, "title").textContent = `step ${one.n}, ${one.kind}: ${duration(one.seconds)}`;
      if (same) dot.addEventListener("click", () => this.show(one.n));
    }
    const now = same ? steps[this.number] : null;
    this.find(".this-time").textContent = now?.seconds
      ? `Step ${this.number}: ${duration(now.seconds)}` +
        (now.short ? `, ${now.short} against the step before.` : ".")
      : same
        ? `Step ${this.number} was not timed.`
        : "The measured schedule has other primitives than the one above.";
    text(svg, left, height + 20, "start");
    text(svg, width - right, height + 20, `step ${steps.length - 1}`, "end");
    return svg;
  }
}

// One array: a cell for each element, coloured by where its line is, the last touches on top.
class Picture {
  constructor(buffer) {
    this.buffer = buffer;
    this.drawn = drawn(buffer.shape);
    this.cell = Math.max(4, Math.floor(384 / Math.max(this.drawn.width, 16)));
    this.canvas = element("canvas", {
      width: this.drawn.width * this.cell,
      height: this.drawn.height * this.cell,
      role: "img",
    });
    const shape = buffer.shape.join(" × ");
    const where = buffer.registers ? " in registers" : "";
    this.canvas.setAttribute("aria-label", `${buffer.name}, ${shape}${where}: where each element is`);
    this.figure = element("figure", { class: buffer.registers ? "buffer registers" : "buffer" });
    const caption = element("figcaption");
    caption.append(element("b", {}, buffer.name), ` ${shape}${where}`);
    this.figure.append(caption, this.canvas);
  }

  paint(holder, recent, now, floats) {
    const context = this.canvas.getContext("2d");
    const color = colors();
    const { cell } = this;
    const inner = cell - 1;
    context.fillStyle = color.far;
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    let tint = color.registers;
    for (let place = 0; place < this.drawn.size; place++) {
      if (!this.buffer.registers && place % floats === 0) {
        tint = [color.l1, color.l2, color.far][Math.min(2, holder(place))];
      }
      const [x, y] = this.drawn.at(place);
      context.fillStyle = tint;
      context.fillRect(x * cell, y * cell, inner, inner);
    }
    for (const { place, missed, when } of recent) {
      const [x, y] = this.drawn.at(place);
      const age = now - 1 - when;
      context.globalAlpha = age === 0 ? 1 : 0.85 * (1 - age / TRAIL);
      context.fillStyle = missed ? color.miss : color.hit;
      const grow = age === 0 ? 2 : 0;
      context.fillRect(x * cell - grow, y * cell - grow, inner + 2 * grow, inner + 2 * grow);
    }
    context.globalAlpha = 1;
  }
}

// -------------------------------------------------------------------------------------- measured

class Measured {
  constructor(section, data) {
    Object.assign(this, { data, part: data.steps[0]?.part });
    this.find = (selector) => section.querySelector(`.measured ${selector}`);
    this.select = this.find(".run");
    this.roofline = chart(this.find(".roofline .chart"), (width) => this.roofs(width));
    this.select.addEventListener("input", () => this.show());
    section.addEventListener("step", ({ detail }) => {
      this.part = detail;
      this.show();
    });
    this.show();
  }

  get run() {
    return this.data.measured[+this.select.value];
  }

  isCurrent(name) {
    return name === this.part || (this.data.also[this.part] ?? []).includes(name);
  }

  show() {
    const { run } = this;
    this.find(".from").textContent = `${run.machine}; ${run.date}; ${run.file}.`;
    this.find("tbody").replaceChildren(
      ...run.times.map((one) => {
        const row = element("tr", { class: this.isCurrent(one.name) ? "current" : "" });
        if (this.isCurrent(one.name)) row.setAttribute("aria-current", "true");
        row.style.setProperty("--share", `${(100 * one.gflops) / run.fma}%`);
        row.append(
          element("th", { scope: "row" }, one.name),
          element("td", { class: "number" }, duration(one.seconds)),
          element("td", { class: "number" }, `${Math.round(100 * one.spread)}%`),
          element("td", { class: "number" }, digits(one.gflops)),
          element("td", { class: "number" }, share(one.gflops / run.fma)),
        );
        return row;
      }),
    );
    this.roofline.draw();
  }

  // Versions whose dots touch share one list of names, on the side where there is more room. Where
  // that is little, one of them is named, and the table has the others.
  nameTheVersions(svg, x, y, [from, to], top, bottom) {
    const widest = Math.max(...this.run.times.map((one) => textWidth(one.name)));
    const toTheRight = to - x > x - from && to - x > widest + 24;
    const side = toTheRight ? 1 : -1;
    const room = (toTheRight ? to - x : x - from) - 30;
    const lists = [];
    for (const one of this.run.times.toSorted((a, b) => b.gflops - a.gflops)) {
      const at = y(one.gflops);
      if (!lists.length || at - lists.at(-1).dots.at(-1) > 10) lists.push({ names: [], dots: [] });
      lists.at(-1).dots.push(at);
      lists.at(-1).names.push(one.name);
    }
    for (const one of lists) {
      one.lines = this.folded(one.names, room);
      one.height = LINE * one.lines.length;
      one.at = (one.dots[0] + one.dots.at(-1)) / 2;
    }
    for (const one of placed(lists, top, bottom)) {
      line(svg, x + 8 * side, one.at, x + 20 * side, one.top + one.height / 2, "leader");
      one.lines.forEach((names, n) => {
        const place = one.top + LINE * (n + 1) - 4;
        const label = text(svg, x + 24 * side, place, "", toTheRight ? "start" : "end", "name");
        for (const name of names) {
          const current = this.isCurrent(name.replace(/,? ?$/, ""));
          add(label, "tspan", current ? { class: "strong" } : {}).textContent = name;
        }
      });
    }
  }

  folded(names, room) {
    if (room < 100 && names.length > 2) {
      const first = names.find((one) => this.isCurrent(one)) ?? names[0];
      return [[first], [`and ${names.length - 1} more`]];
    }
    const lines = [[]];
    names.forEach((one, n) => {
      const name = n < names.length - 1 ? `${one}, ` : one;
      if (lines.at(-1).length && textWidth(lines.at(-1).join("") + name) > room) lines.push([]);
      lines.at(-1).push(name);
    });
    return lines;
  }

  roofs(width) {
    const { run } = this;
    const { intensity } = run.times[0];
    const [left, right, top, height, bottom] = [52, 12, 26, 260, 42];
    // The names stand on the side of the points that the slope leaves free.
    const [from, to] = [Math.min(1, intensity / 2), intensity > 64 ? 1.5 * intensity : 2048];
    const rates = run.times.map((one) => one.gflops);
    const low = 10 ** Math.floor(Math.log10(Math.min(...rates, run.fma / 30) / 1.5));
    const high = Math.max(run.fma, ...rates) * 1.6;
    const x = (value) => left + ((width - left - right) * Math.log(value / from)) / Math.log(to / from);
    const y = (value) => height - ((height - top) * Math.log(value / low)) / Math.log(high / low);
    const told = `${run.times.length} versions under the roofs of the machine`;
    const svg = drawing(width, height + bottom, told);
    for (const tick of powers(low, high)) {
      line(svg, left, y(tick), width - right, y(tick), "grid");
      text(svg, left - 6, y(tick) + 4, digits(tick), "end");
    }
    for (const tick of [1, 10, 100]) {
      line(svg, x(tick), top, x(tick), height, "grid");
      text(svg, x(tick), height + 17, `${tick}`, "middle");
    }
    text(svg, (left + width - right) / 2, height + 36, "operations per byte", "middle");
    text(svg, left - 44, 12, "GFLOP/s", "start");
    const ridge = run.bandwidth ? Math.max(from, run.fma / run.bandwidth) : from;
    line(svg, x(ridge), y(run.fma), width - right, y(run.fma), "roof");
    text(svg, width - right, y(run.fma) - 6, `${digits(run.fma)} GFLOP/s, FMA peak`, "end", "rooftext");
    if (run.bandwidth) {
      const start = Math.max(from, low / run.bandwidth);
      line(svg, x(start), y(start * run.bandwidth), x(ridge), y(run.fma), "roof");
      const at = Math.min(height - 6, y(start * run.bandwidth) + 24);
      text(svg, x(start) + 8, at, `${digits(run.bandwidth)} GB/s`, "start", "rooftext");
    } else {
      text(svg, left + 6, y(run.fma) + 18, "bandwidth: not measured in this run", "start");
    }
    this.nameTheVersions(svg, x(intensity), y, [x(ridge), width - right], y(run.fma) + 8, height);
    const points = run.times.toSorted((a, b) => this.isCurrent(a.name) - this.isCurrent(b.name));
    for (const one of points) {
      const current = this.isCurrent(one.name);
      const mark = { class: `dot${current ? " current" : ""}${one.library ? " library" : ""}` };
      const size = { cx: x(intensity), cy: y(one.gflops), r: current ? 7 : 4.5 };
      const dot = add(svg, "circle", { ...mark, ...size });
      add(dot, "title").textContent = `${one.name}: ${digits(one.gflops)} GFLOP/s`;
    }
    return svg;
  }
}

// Lists of names beside dots, none over another: each as near to its dots as those above leave it,
// and all of them above the bottom.
function placed(lists, top, bottom) {
  let free = top;
  for (const one of lists) {
    one.top = Math.max(free, one.at - one.height / 2);
    free = one.top + one.height + 3;
  }
  let floor = bottom;
  for (const one of lists.toReversed()) {
    one.top = Math.min(one.top, floor - one.height);
    floor = one.top - 3;
  }
  return lists;
}

function searchCurve(curve, width) {
  const [left, right, top, height, bottom] = [48, 12, 10, 210, 38];
  const high = Math.max(...curve.best) * 1.08;
  const svg = drawing(width, height + bottom, `${curve.title}: the best of ${curve.trials.length} trials`);
  const x = (n) => left + ((width - left - right) * (n + 1)) / (curve.trials.length + 1);
  const y = (rate) => height - ((height - top) * rate) / high;
  for (const tick of niceTicks(high)) {
    line(svg, left, y(tick), width - right, y(tick), "grid");
    text(svg, left - 6, y(tick) + 4, digits(tick), "end");
  }
  curve.trials.forEach((rate, n) => {
    const dot = add(svg, "circle", { class: "trial", cx: x(n), cy: y(rate), r: 3 });
    add(dot, "title").textContent = rate ? `trial ${n + 1}: ${digits(rate)} GFLOP/s` : `trial ${n + 1} failed`;
  });
  const points = curve.best.flatMap((rate, n) =>
    n && rate !== curve.best[n - 1]
      ? [`${x(n)},${y(curve.best[n - 1])}`, `${x(n)},${y(rate)}`]
      : [`${x(n)},${y(rate)}`],
  );
  add(svg, "polyline", { class: "path best", points: points.join(" ") });
  const best = curve.best.at(-1);
  text(svg, width - right, y(best) - 8, `best ${digits(best)} GFLOP/s`, "end", "strong");
  text(svg, (left + width - right) / 2, height + 32, "trials, in their order", "middle");
  text(svg, x(0), height + 16, "1", "middle");
  text(svg, x(curve.trials.length - 1), height + 16, `${curve.trials.length}`, "middle");
  return svg;
}

// --------------------------------------------------------------------------------- small helpers

function element(name, attributes = {}, content = "") {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = content;
  return made;
}

function add(parent, name, attributes = {}) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return parent.appendChild(made);
}

function drawing(width, height, label) {
  const svg = add(document.createDocumentFragment(), "svg", { width, height, role: "img" });
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("aria-label", label);
  return svg;
}

// How wide a drawing's text is, in the bold type that is the widest of it.
function textWidth(content) {
  const context = (textWidth.context ??= document.createElement("canvas").getContext("2d"));
  context.font = 'bold 12.5px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif';
  return context.measureText(content).width;
}

function line(svg, x1, y1, x2, y2, name) {
  return add(svg, "line", { x1, y1, x2, y2, class: name });
}

function text(svg, x, y, content, anchor = "start", name = "") {
  const made = add(svg, "text", { x, y, "text-anchor": anchor, class: name });
  made.textContent = content;
  return made;
}

// A picture that is drawn for the width it has, so that its text keeps its size.
function chart(box, draw) {
  const one = {
    draw: () => {
      const width = Math.floor(box.clientWidth);
      if (width) box.replaceChildren(draw(width));
    },
  };
  let before = 0;
  new ResizeObserver(() => {
    if (box.clientWidth !== before) one.draw();
    before = box.clientWidth;
  }).observe(box);
  return one;
}

const range = (values) => [Math.min(...values) / 1.3, Math.max(...values) * 1.3];

function powers(low, high) {
  const found = [];
  for (let n = Math.ceil(Math.log10(low) - 1e-9); 10 ** n <= high; n++) found.push(10 ** n);
  return found;
}

function niceTicks(top) {
  const rough = top / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((one) => one >= rough);
  const found = [];
  for (let n = 0; n * step <= top; n++) found.push(n * step);
  return found;
}

function digits(value) {
  if (value >= 100) return value.toFixed(0);
  if (value >= 10) return String(+value.toFixed(1));
  return String(+value.toPrecision(3));
}

function duration(seconds) {
  for (const [unit, size] of [["s", 1], ["ms", 1e-3], ["µs", 1e-6]]) {
    if (seconds >= size * 0.9999) return `${digits(seconds / size)} ${unit}`;
  }
  return `${digits(seconds / 1e-9)} ns`;
}

const share = (value) => `${value < 0.1 ? +(100 * value).toPrecision(2) : Math.round(100 * value)}%`;

let known = null;
function colors() {
  if (known === null) {
    const style = getComputedStyle(document.documentElement);
    const names = ["far", "l1", "l2", "hit", "miss", "registers"];
    known = Object.fromEntries(names.map((one) => [one, style.getPropertyValue(`--${one}`).trim()]));
  }
  return known;
}

// ----------------------------------------------------------------------------------------- start

const shown = [];
ladders.forEach((data) => {
  const section = document.getElementById(data.name);
  if (data.measured.length) new Measured(section, data);
  if (data.steps.length) shown.push(new Ladder(section, data));
});
document.querySelectorAll(".curve .chart").forEach((box, n) => {
  chart(box, (width) => searchCurve(curves[n], width));
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  known = null;
  shown.forEach((one) => one.paint());
});
