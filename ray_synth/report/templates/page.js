"use strict";
(() => {
  const all = (what, from = document) => [...from.querySelectorAll(what)];
  const one = (what, from = document) => from.querySelector(what);
  const make = (tag, words, more = {}) => Object.assign(document.createElement(tag), {textContent: words, ...more});
  const draw = (tag, more, into) => {
    const mark = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(more)) mark.setAttribute(name, value);
    into.append(mark);
    return mark;
  };
  all(".controls, .hint, #theme").forEach(e => { e.hidden = false; });

  // Theme: as the system has it, or one of two.
  const themes = ["automatic", "light", "dark"], button = one("#theme"), key = "ray_synth theme";
  const dress = theme => {
    if (theme === "automatic") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
    try { localStorage.setItem(key, theme); } catch { /* a browser that keeps nothing */ }
  };
  let theme = "automatic";
  try { theme = localStorage.getItem(key) || theme; } catch { /* the same */ }
  dress(themes.includes(theme) ? theme : "automatic");
  button.onclick = () => dress(themes[(themes.indexOf(button.textContent.slice(7)) + 1) % 3]);

  // What is under the pointer.
  const tip = one("#tip");
  document.addEventListener("pointermove", e => {
    const mark = e.target.closest?.("[data-tip]");
    tip.hidden = !mark;
    if (!mark) return;
    tip.textContent = mark.dataset.tip;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(e.clientX + 12, innerWidth - box.width - 8))}px`;
    tip.style.top = `${e.clientY + 16 + box.height > innerHeight ? e.clientY - box.height - 8 : e.clientY + 16}px`;
  });
  document.addEventListener("keydown", e => { if (e.key === "Escape") tip.hidden = true; });

  // Copying, with a word that it is done.
  const copy = async (words, by) => {
    const before = by.textContent;
    try {
      await navigator.clipboard.writeText(words);
    } catch { // a page without that right
      const area = document.body.appendChild(make("textarea", words));
      area.select();
      document.execCommand("copy");
      area.remove();
      by.focus();
    }
    by.textContent = "Copied";
    setTimeout(() => { by.textContent = before; }, 1500);
  };
  for (const pre of all("pre.command")) {
    const box = make("div", "", {className: "copy"}), by = make("button", "Copy", {type: "button"});
    by.setAttribute("aria-label", `Copy: ${pre.textContent}`);
    by.onclick = () => copy(pre.textContent, by);
    pre.replaceWith(box);
    box.append(pre, by);
  }

  // Tables: sorted by their heads, copied, saved.
  const words = cell => cell.dataset.v ?? cell.textContent.trim().replace(/\s+/g, " ");
  const number = text => parseFloat(/^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?/i.exec(text.replaceAll(",", ""))?.[0]);
  const plain = /^[-+]?[\d.,]+(e[-+]?\d+)?( ?%)?$/i;
  const harmless = text => /^\s*[=+\-@\uff1d\uff0b\uff0d\uff20]/.test(text) && !plain.test(text) ? `'${text}` : text;
  const quoted = text => `"${harmless(text).replaceAll('"', '""')}"`;
  const marked = text => text.replace(/[\\`*_[\]<>|&~#]/g, "\\$&");
  const order = (a, b) => {
    const [x, y] = [number(a), number(b)];
    if (isNaN(x) && isNaN(y)) return a.localeCompare(b, undefined, {numeric: true});
    return isNaN(x) ? 1 : isNaN(y) ? -1 : x - y;
  };
  const exported = (table, head) => {
    const left = head.map(cell => cell && "nosort" in cell.dataset);
    return [...table.rows].filter(row => !row.hidden).map(row => [...row.cells].filter((_, i) => !left[i]).map(words));
  };
  for (const table of all("main table")) {
    const name = (table.caption ?? one("h2", table.closest("section")))?.textContent.trim() ?? "table";
    const box = make("div", "", {className: "tall" in table.dataset ? "scroll tall" : "scroll", tabIndex: 0});
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", name);
    table.replaceWith(box);
    box.append(table);
    if ("plain" in table.dataset) continue;
    const first = [...(table.rows[0]?.cells ?? [])], head = first.every(cell => cell.tagName === "TH") ? first : [];
    const simple = !one("[colspan], [rowspan]", table);
    head.forEach((cell, column) => {
      cell.scope = "col";
      if (!simple || "nosort" in cell.dataset) return;
      const by = make("button", words(cell), {type: "button"});
      cell.replaceChildren(by);
      by.onclick = () => {
        const up = cell.getAttribute("aria-sort") !== "ascending";
        head.forEach(other => other.removeAttribute("aria-sort"));
        cell.setAttribute("aria-sort", up ? "ascending" : "descending");
        const rows = [...table.rows].slice(1), of = row => words(row.cells[column] ?? row);
        const known = row => isNaN(number(of(row))) ? 1 : 0;  // what has no number stays last
        rows.sort((a, b) => (known(a) - known(b)) || (up ? 1 : -1) * order(of(a), of(b)));
        rows.forEach(row => row.parentNode.append(row));
      };
    });
    const tools = make("p", "", {className: "tools"});
    const markdown = make("button", "Copy as Markdown", {type: "button"}), csv = make("button", "CSV", {type: "button"});
    markdown.setAttribute("aria-label", `Copy as Markdown: ${name}`);
    csv.setAttribute("aria-label", `CSV: ${name}`);
    markdown.onclick = () => {
      const rows = exported(table, head), line = row => `| ${row.map(marked).join(" | ")} |`;
      const ends = head.filter(cell => !("nosort" in cell.dataset)).map(c => c.classList.contains("n") ? "---:" : "---");
      const top = head.length ? [line(rows.shift())] : [line(rows[0].map(() => ""))];
      const rule = head.length ? ends : rows[0].map(() => "---");
      copy([...top, `| ${rule.join(" | ")} |`, ...rows.map(line)].join("\n") + "\n", markdown);
    };
    csv.onclick = () => {
      const text = exported(table, head).map(row => row.map(quoted).join(",")).join("\r\n") + "\r\n";
      const href = URL.createObjectURL(new Blob(["\ufeff", text], {type: "text/csv"}));
      make("a", "", {href, download: `${name.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 60)}.csv`}).click();
      setTimeout(() => URL.revokeObjectURL(href), 1000);
    };
    tools.append(markdown, csv);
    box.after(tools);
  }

  // The ratio: what is predicted there, and what it costs.
  const explorer = one("#explorer");
  if (explorer) {
    const d = JSON.parse(one("script", explorer).textContent), svg = one("svg", explorer);
    const slider = one("#ratio"), tolerance = one("#tolerance"), say = name => one(`[data-say=${name}]`, explorer);
    const u = r => Math.log2(1 + r), us = d.ratio.map(u), top = u(d.top);
    const short = x => x >= 999.5 ? Math.round(x).toLocaleString("en") : String(+x.toPrecision(3));
    const at = (values, r) => {
      const x = u(r);
      let i = us.findIndex(v => v >= x - 1e-9);
      if (i < 0) i = us.length - 1;
      if (i === 0) return values[0];
      return values[i - 1] + (values[i] - values[i - 1]) * (x - us[i - 1]) / (us[i] - us[i - 1]);
    };
    const rounded = x => x >= 9.95 ? Math.round(x).toLocaleString("en") : String(+x.toPrecision(2));
    const time = s => s >= 172800 ? `${rounded(s / 86400)} days` : s >= 7200 ? `${rounded(s / 3600)} h`
      : s >= 120 ? `${rounded(s / 60)} min` : `${rounded(s)} s`;
    const cost = r => (d.image ?? 0) * Math.round(r * d.real) + (d.training ?? 0) * (d.grows ? 1 + r : 1);
    const points = x => `${x >= 0 ? "+" : "−"}${Math.abs(100 * x).toFixed(1)} points`;
    const percent = x => `${(100 * x).toFixed(1)} %`;
    const cursor = draw("path", {class: "cursor"}, svg), knob = draw("circle", {class: "knob", r: 5}, svg);
    svg.insertBefore(cursor, one(".dot", svg));
    const box = svg.viewBox.baseVal, floor = box.height - 46, scale = JSON.parse(explorer.dataset.y);
    const place = e => 14 + (floor - 14) * (1 - Math.min(1, Math.max(0, (e - scale[0]) / (scale[1] - scale[0]))));
    const show = () => {
      const r = 2 ** (top * slider.value / d.steps) - 1, error = at(d.error, r);
      const [low, high] = [at(d.low, r), at(d.high, r)], x = d.left + (d.right - d.left) * slider.value / d.steps;
      cursor.setAttribute("d", `M${x} 14V${floor}`);
      knob.setAttribute("cx", x);
      knob.setAttribute("cy", place(error));
      say("ratio").textContent = short(r);
      say("accuracy").textContent = `${percent(1 - error)} (${(100 - 100 * high).toFixed(1)} to ${(100 - 100 * low).toFixed(1)})`;
      say("gain").textContent = points(d.error[0] - error);
      say("images").textContent = Math.round(r * d.real).toLocaleString("en");
      say("cost").textContent = d.training === null ? "not measured" : time(cost(r));
      slider.setAttribute("aria-valuetext", `ratio ${short(r)}: predicted accuracy ${say("accuracy").textContent}, ` +
        `${say("images").textContent} images, cost ${say("cost").textContent}`);
    };
    let pick = 0;
    const cheapest = () => { // of the ratios of the curve, as `RatioEstimate.cheapest` finds it
      const most = Math.min(...d.error) + Math.max(0, +tolerance.value || 0) / 100 + 1e-12;
      pick = d.ratio[d.error.findIndex(e => e <= most)];
      say("cheapest").textContent = `ratio ${short(pick)}, ${Math.round(pick * d.real).toLocaleString("en")} images` +
        (d.training === null ? "" : `, ${time(cost(pick))}`);
    };
    slider.oninput = show;
    tolerance.oninput = cheapest;
    one("#take").onclick = () => { slider.value = Math.round(d.steps * u(pick) / top); show(); };
    svg.addEventListener("click", e => {
      const x = new DOMPoint(e.clientX, e.clientY).matrixTransform(svg.getScreenCTM().inverse()).x;
      slider.value = Math.round(d.steps * (x - d.left) / (d.right - d.left));
      show();
    });
    show();
    cheapest();
  }

  // One class of many points.
  for (const select of all(".chosen select")) {
    const dots = all("[data-group]", select.closest(".chosen"));
    select.onchange = () => dots.forEach(e => e.classList.toggle("out", select.value !== "" && e.dataset.group !== select.value));
  }

  // Trials as lines, brushed on each axis.
  const parallel = one("#parallel");
  if (parallel) {
    const lines = all("polyline", parallel).map(e => ({e, ys: JSON.parse(e.dataset.ys)}));
    const rows = all("#trial-table tr[data-trial]"), status = one("#brushed");
    const brushed = () => {
      const narrow = axes.some(a => a.range[0] > 0 || a.range[1] < a.stops.length - 1);
      const kept = new Set();
      let best = Infinity;
      for (const {e, ys} of lines) {
        const out = axes.some((a, i) => ys[i] > a.stops[a.range[0]][0] || ys[i] < a.stops[a.range[1]][0]);
        e.classList.toggle("out", out);
        if (!out) { kept.add(e.dataset.trial); best = Math.min(best, ys.at(-1)); }
      }
      rows.forEach(row => { row.hidden = narrow && !kept.has(row.dataset.trial); });
      const last = axes.at(-1), found = last.stops.find(stop => stop[0] === best);
      status.textContent = narrow ? `${kept.size} of ${lines.length} complete trials` + (found ? `, best ${last.name} ${found[1]}` : "") : "";
    };
    const axes = all("g.axis", parallel).map(g => {
      const a = {name: g.dataset.name, stops: JSON.parse(g.dataset.stops)}, n = a.stops.length - 1;
      a.range = [0, n];
      const hit = draw("rect", {class: "hit", x: -16, y: a.stops[n][0] - 6, width: 32, height: a.stops[0][0] - a.stops[n][0] + 12}, g);
      const brush = draw("rect", {class: "brush", x: -5, width: 10}, g);
      const handles = ["from", "to"].map((word, side) => {
        const h = draw("g", {class: "handle", tabindex: 0, role: "slider", "aria-orientation": "vertical",
          "aria-label": `${a.name}, ${word}`, "aria-valuemin": 0, "aria-valuemax": n}, g);
        draw("path", {d: side ? "M-7 -8H7L0 0Z" : "M-7 8H7L0 0Z"}, h);
        h.addEventListener("keydown", e => {
          const by = {ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: Math.ceil(n / 5), PageDown: -Math.ceil(n / 5),
            Home: -n, End: n}[e.key];
          if (!by) return;
          e.preventDefault();
          const limits = side ? [a.range[0], n] : [0, a.range[1]];
          a.range[side] = Math.min(limits[1], Math.max(limits[0], a.range[side] + by));
          a.show();
        });
        return h;
      });
      a.show = (update = true) => {
        handles.forEach((h, side) => {
          const [y, text] = a.stops[a.range[side]];
          h.setAttribute("transform", `translate(0 ${y})`);
          h.setAttribute("aria-valuenow", a.range[side]);
          h.setAttribute("aria-valuetext", text);
        });
        const [low, high] = [a.stops[a.range[0]][0], a.stops[a.range[1]][0]], whole = a.range[0] === 0 && a.range[1] === n;
        brush.setAttribute("y", high - 2);
        brush.setAttribute("height", whole ? 0 : low - high + 4);
        if (update) brushed();
      };
      const y = e => new DOMPoint(e.clientX, e.clientY).matrixTransform(parallel.getScreenCTM().inverse()).y;
      let start = null;
      hit.addEventListener("pointerdown", e => { start = y(e); hit.setPointerCapture(e.pointerId); });
      hit.addEventListener("pointermove", e => {
        if (start === null || Math.abs(y(e) - start) < 3) return;
        const [high, low] = [Math.min(start, y(e)) - 2, Math.max(start, y(e)) + 2];
        const within = a.stops.map((stop, i) => stop[0] >= high && stop[0] <= low ? i : -1).filter(i => i >= 0);
        if (within.length) { a.range = [within[0], within.at(-1)]; a.show(); }
      });
      hit.addEventListener("pointerup", e => {
        if (start !== null && Math.abs(y(e) - start) < 3) { a.range = [0, n]; a.show(); }
        start = null;
      });
      a.show(false);
      return a;
    });
    one("#unbrush").onclick = () => { axes.forEach(a => { a.range = [0, a.stops.length - 1]; a.show(false); }); brushed(); };
  }

  // On paper everything is open.
  addEventListener("beforeprint", () => all("details").forEach(e => { e.open = true; }));
})();
