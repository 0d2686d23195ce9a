// Sketches the pictures of a poster, until plotly.js draws them: plotly's JSON, without what moves.
"use strict";
(() => {
  const TYPES = {
    f8: Float64Array, f4: Float32Array, i4: Int32Array, i2: Int16Array, i1: Int8Array, u1: Uint8Array,
  };
  const SCALES = {
    Viridis: ["#440154", "#482878", "#3e4a89", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"],
    RdBu: ["#053061", "#2166ac", "#4393c3", "#92c5de", "#f7f7f7", "#f4a582", "#d6604d", "#b2182b", "#67001f"],
  };

  function unpacked(data) {
    if (!data || !data.bdata) return data;
    const bytes = Uint8Array.from(atob(data.bdata), (one) => one.charCodeAt(0));
    return new TYPES[data.dtype](bytes.buffer);
  }

  const plain = (text) => String(text || "").replace(/<br>/g, " ").replace(/<[^>]*>/g, "")
    .replace(/&lt;/g, "<").replace(/&amp;/g, "&");
  const named = (which, ref) => which + "axis" + String(ref || which).slice(1);

  // Moments become milliseconds, names their places in a list; numbers stay.
  function numeric(values, kind) {
    const given = unpacked(values);
    if (!Array.isArray(given) || typeof given[0] !== "string") return given;
    if (/^\d{4}-\d\d-\d\d/.test(given[0])) {
      kind.isTime = true;
      return given.map((one) => Date.parse(/Z|[+-]\d\d:\d\d$/.test(one) ? one : one + "Z"));
    }
    kind.words = [...new Set([...(kind.words || []), ...given])];
    return given.map((one) => kind.words.indexOf(one));
  }

  const HOUR = 3600e3;
  const clock = (at, step) => new Date(at).toISOString().slice(...(step < 24 * HOUR ? [11, 16] : [0, 10]));

  function extent(values, into, more) {
    for (let i = 0; i < values.length; i += 1) {
      const off = more ? more[i] || 0 : 0;
      if (!Number.isFinite(values[i])) continue;
      into[0] = Math.min(into[0], values[i] - off);
      into[1] = Math.max(into[1], values[i] + off);
    }
  }

  // Pixels of an axis' values, and where its ticks are.
  function scaled(axis, seen, kind, from, to) {
    const isLog = axis.type === "log";
    const value = isLog ? (v) => Math.log10(v) : (v) => v;
    let [low, high] = axis.range || seen.map((v) => (isLog ? Math.log10(Math.max(v, 0.5)) : v));
    if (!axis.range) {
      if (axis.rangemode === "tozero") low = Math.min(low, 0);
      const room = kind.isTight ? 0.5 : (high - low || 1) * 0.055;
      high += room;
      if (axis.rangemode !== "tozero" || low < 0) low -= room;
      if (axis.autorange === "reversed") [low, high] = [high, low];
    }
    const at = (v) => from + (to - from) * (value(v) - low) / (high - low || 1);
    let ticks = axis.tickvals;
    let texts = axis.ticktext;
    const span = Math.abs(high - low);
    if (kind.words) {
      texts = kind.words;
      ticks = texts.map((_, i) => i);
    } else if (kind.isTime) {
      const step = [1, 2, 6, 12, 24, 48, 168].map((n) => n * HOUR).find((one) => span / one <= 6) || span;
      ticks = [];
      for (let v = Math.ceil(low / step) * step; v <= high; v += step) ticks.push(v);
      texts = ticks.map((v) => clock(v, step));
    } else if (!ticks) {
      const power = 10 ** Math.floor(Math.log10(span / 5 || 1));
      const step = [1, 2, 5, 10].map((n) => n * power).find((n) => span / n <= 6) || power;
      ticks = [];
      for (let v = Math.ceil(Math.min(low, high) / step) * step; v <= Math.max(low, high); v += step) ticks.push(v);
      const short = (v) => (v && (Math.abs(v) >= 1e4 || Math.abs(v) < 1e-3)
        ? Number(v.toPrecision(3)).toExponential().replace("e+", "e") : String(Number(v.toPrecision(6))));
      texts = ticks.map((v) => (isLog ? "1e" + v : short(v)));
      if (isLog) ticks = ticks.map((v) => 10 ** v);
    }
    return { at, ticks, texts };
  }

  // RdBu as plotly shows it reversed: blue is low.
  function colours(scale) {
    const stops = Array.isArray(scale) ? scale
      : (SCALES[scale] || SCALES.Viridis).map((one, i, all) => [i / (all.length - 1), one]);
    const rgb = stops.map(([part, hex]) => [part, [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16))]);
    return (part) => {
      let i = 1;
      while (i < rgb.length - 1 && part > rgb[i][0]) i += 1;
      const [[a, low], [b, high]] = [rgb[i - 1], rgb[i]];
      const t = b > a ? Math.min(1, Math.max(0, (part - a) / (b - a))) : 1;
      return low.map((v, k) => v + t * (high[k] - v));
    };
  }

  function heat(ctx, trace, x, y) {
    const z = unpacked(trace.z);
    const [ny, nx] = trace.z.shape.split(",").map(Number);
    const edges = (values, n) => {
      const given = values && unpacked(values);
      if (!given) return Array.from({ length: n + 1 }, (_, i) => i - 0.5);
      if (given.length === n + 1) return given;
      const half = n > 1 ? (given[1] - given[0]) / 2 : 0.5;
      return Array.from({ length: n + 1 }, (_, i) => (i < n ? given[i] - half : given[n - 1] + half));
    };
    const across = edges(trace.x, nx);
    const up = edges(trace.y, ny);
    const seen = [Infinity, -Infinity];
    extent(z, seen);
    const low = trace.zmin ?? seen[0];
    const high = trace.zmax ?? seen[1];
    const colour = colours(trace.colorscale);
    const table = Array.from({ length: 256 }, (_, i) => colour(i / 255));
    const image = new ImageData(nx, ny);
    for (let i = 0; i < z.length; i += 1) {
      if (!Number.isFinite(z[i])) continue;
      const part = (z[i] - low) / (high - low || 1);
      const [r, g, b] = table[Math.min(255, Math.max(0, Math.round(part * 255)))];
      image.data.set([r, g, b, 255], 4 * i);
    }
    const cells = new OffscreenCanvas(nx, ny);
    cells.getContext("2d").putImageData(image, 0, 0);
    ctx.imageSmoothingEnabled = false;
    const even = (e) => Math.abs((e[1] - e[0]) * (e.length - 1) / (e[e.length - 1] - e[0]) - 1) < 1e-3;
    const box = (i, j, ni, nj) => {
      const [x0, x1, y0, y1] = [x(across[i]), x(across[i + ni]), y(up[j]), y(up[j + nj])];
      ctx.save();
      // The first row of cells is the lowest, unless the axis runs downwards.
      ctx.translate(x0, y0);
      ctx.scale(Math.sign(x1 - x0) || 1, Math.sign(y1 - y0) || 1);
      ctx.drawImage(cells, i, j, ni, nj, 0, 0, Math.abs(x1 - x0), Math.abs(y1 - y0));
      ctx.restore();
    };
    if (even(across) && even(up)) box(0, 0, nx, ny);
    else for (let i = 0; i < nx; i += 1) for (let j = 0; j < ny; j += 1) box(i, j, 1, 1);
    return { low, high, colour };
  }

  // The scale of a heatmap: above the whole picture, or right of its own.
  function scale(ctx, trace, x, y, ink, { low, high, colour }) {
    const bar = trace.colorbar || {};
    const flat = bar.orientation === "h";
    const length = flat ? x.to - x.from : y.from - y.to;
    const [left, top] = flat ? [x.from, y.to - 29] : [x.to + 3, y.to];
    for (let i = 0; i < length; i += 1) {
      ctx.fillStyle = `rgb(${colour(flat ? i / length : 1 - i / length)})`;
      if (flat) ctx.fillRect(left + i, top, 1, 10); else ctx.fillRect(left, top + i, 10, 1);
    }
    ctx.fillStyle = ink;
    ctx.textAlign = flat ? "center" : "left";
    ctx.textBaseline = flat ? "top" : "middle";
    const ticks = bar.tickvals || [low, high];
    const texts = bar.ticktext || ticks.map((v) => Number(v.toPrecision(3)));
    ticks.forEach((v, i) => {
      const part = (v - low) / (high - low || 1);
      const text = plain(texts[i]);
      const half = ctx.measureText(text).width / 2;
      if (flat) ctx.fillText(text, Math.min(x.to - half, Math.max(x.from + half, left + part * length)), top + 12);
      else ctx.fillText(text, left + 14, top + Math.min(length - 5, Math.max(5, (1 - part) * length)));
    });
  }

  function line(ctx, trace, x, y, ink) {
    const xs = unpacked(trace.x);
    const ys = unpacked(trace.y);
    const marker = trace.marker || {};
    const style = trace.line || {};
    ctx.strokeStyle = ctx.fillStyle = style.color || marker.color || ink;
    if (trace.type === "bar") {
      const wide = trace.width ? unpacked(trace.width) : null;
      for (let i = 0; i < xs.length; i += 1) {
        const half = (wide ? wide[i] : 0.85 * (xs[1] - xs[0] || 1)) / 2;
        const [a, b] = [x(xs[i] - half), x(xs[i] + half)];
        ctx.fillRect(a, Math.min(y(0), y(ys[i])), b - a, Math.abs(y(ys[i]) - y(0)));
      }
      return;
    }
    if ((trace.mode || "lines").includes("lines")) {
      ctx.lineWidth = style.width || 2;
      ctx.setLineDash({ dash: [9, 5], dot: [2, 4], dashdot: [9, 4, 2, 4] }[style.dash] || []);
      ctx.beginPath();
      let down = false;
      for (let i = 0; i < xs.length; i += 1) {
        const there = Number.isFinite(xs[i]) && Number.isFinite(ys[i]);
        if (down && there && style.shape === "hv") ctx.lineTo(x(xs[i]), y(ys[i - 1]));
        if (there) ctx[down ? "lineTo" : "moveTo"](x(xs[i]), y(ys[i]));
        down = there;
      }
      ctx.stroke();
      ctx.setLineDash([]);
      if (trace.fill && xs.length) {
        ctx.lineTo(x(xs[xs.length - 1]), y(0));
        ctx.lineTo(x(xs[0]), y(0));
        ctx.fillStyle = trace.fillcolor || style.color;
        ctx.fill();
      }
      return;
    }
    const off = trace.error_y ? unpacked(trace.error_y.array) : null;
    const sizes = Array.isArray(marker.size) ? marker.size : null;
    for (let i = 0; i < xs.length; i += 1) {
      if (!Number.isFinite(ys[i])) continue;
      const size = sizes ? sizes[i] : marker.size || 5;
      ctx.fillStyle = Array.isArray(marker.color) ? marker.color[i] : marker.color || ink;
      ctx.fillRect(x(xs[i]) - size / 2, y(ys[i]) - size / 2, size, size);
      if (off) ctx.fillRect(x(xs[i]) - 0.4, y(ys[i] + off[i]), 0.8, y(ys[i] - off[i]) - y(ys[i] + off[i]));
    }
  }

  function sketch(box, figure, marks) {
    const { layout } = figure;
    const kinds = {};
    const kindOf = (which, ref) => (kinds[named(which, ref)] ||= {});
    const data = figure.data.map((trace) => ({
      ...trace,
      x: numeric(trace.x, kindOf("x", trace.xaxis)),
      y: numeric(trace.y, kindOf("y", trace.yaxis)),
    }));
    const style = getComputedStyle(box);
    const [ink, faint] = ["--ml4ad-ink", "--ml4ad-line"].map((name) => style.getPropertyValue(name).trim());
    const height = layout.height || 360;
    const width = box.clientWidth;
    const dense = window.devicePixelRatio || 1;
    const canvas = document.createElement("canvas");
    canvas.width = width * dense;
    canvas.height = height * dense;
    canvas.style.cssText = `width:${width}px;height:${height}px;display:block`;
    box.replaceChildren(canvas);
    const ctx = canvas.getContext("2d");
    ctx.scale(dense, dense);
    ctx.font = "12px system-ui, 'DejaVu Sans', sans-serif";
    const m = { l: 64, r: 14, t: 30, b: 46, ...layout.margin };
    const isUpright = (trace) => trace.type === "heatmap" && (trace.colorbar || {}).orientation !== "h";
    if (data.some(isUpright)) m.r = Math.max(m.r, 96);
    const inner = { w: width - m.l - m.r, h: height - m.t - m.b };
    const paper = { x: (p) => m.l + p * inner.w, y: (p) => m.t + (1 - p) * inner.h };
    const axes = {};
    const axisOf = (which, ref) => {
      const name = named(which, ref);
      if (axes[name]) return axes[name];
      const axis = { ...layout[name] };
      const seen = [Infinity, -Infinity];
      for (const trace of data) {
        if (named(which, trace[which + "axis"]) !== name || !trace[which]) continue;
        const off = which === "y" && trace.error_y ? unpacked(trace.error_y.array) : null;
        extent(unpacked(trace[which]), seen, off);
        if (trace.type === "bar" && which === "y") extent([0], seen);
        // Cells reach half a step beyond their middles.
        if (trace.type === "heatmap") kindOf(which, ref).isTight = true;
      }
      const kind = kindOf(which, ref);
      if (axis.range) axis.range = numeric([...axis.range], kind.isTime ? kind : {});
      if (seen[0] > seen[1]) seen.splice(0, 2, 0, 1);
      const [from, to] = (axis.domain || [0, 1]).map(paper[which]);
      axes[name] = { ...scaled(axis, seen, kind, from, to), from, to, axis, which };
      return axes[name];
    };
    for (const trace of data) { axisOf("x", trace.xaxis); axisOf("y", trace.yaxis); }
    const rows = (layout.meta || {}).rows;
    ctx.lineWidth = 1;
    for (const name of Object.keys(axes)) {
      const { at, ticks, texts, from, to, axis, which } = axes[name];
      const other = axes[named(which === "x" ? "y" : "x", axis.anchor || (which === "x" ? "y" : "x") + name.slice(5))]
        || axes[which === "x" ? "yaxis" : "xaxis"];
      const shownRows = rows && which === "y";
      ctx.fillStyle = ink;
      ctx.strokeStyle = faint;
      ctx.textAlign = which === "x" ? "center" : "right";
      ctx.textBaseline = which === "x" ? "top" : "middle";
      const apart = Math.ceil(11 * ((rows || []).length || 1) / inner.h);
      const places = shownRows ? rows.map((_, i) => i).filter((i) => i % apart === 0) : ticks;
      places.forEach((v, i) => {
        const p = at(v);
        if (p < Math.min(from, to) - 1 || p > Math.max(from, to) + 1) return;
        const text = shownRows ? rows[v].split("/").at(-1).slice(0, 29) : plain(texts[i]);
        if (which === "x") {
          if (axis.showgrid !== false) { ctx.beginPath(); ctx.moveTo(p, other.from); ctx.lineTo(p, other.to); ctx.stroke(); }
          ctx.fillText(text, p, other.from + 5);
        } else {
          if (axis.showgrid !== false) { ctx.beginPath(); ctx.moveTo(other.from, p); ctx.lineTo(other.to, p); ctx.stroke(); }
          ctx.fillText(text, axis.side === "right" ? other.to + 34 : other.from - 5, p);
        }
      });
      const title = plain((axis.title || {}).text);
      if (which === "x") ctx.fillText(title, (from + to) / 2, other.from + 24);
      else if (title) {
        ctx.save();
        ctx.translate(axis.side === "right" ? width - 8 : other.from - 50, (from + to) / 2);
        ctx.rotate(-Math.PI / 2);
        ctx.textAlign = "center";
        ctx.fillText(title, 0, 0);
        ctx.restore();
      }
    }
    for (const trace of data) {
      const x = axisOf("x", trace.xaxis);
      const y = axisOf("y", trace.yaxis);
      ctx.save();
      ctx.beginPath();
      ctx.rect(Math.min(x.from, x.to), Math.min(y.from, y.to), Math.abs(x.to - x.from), Math.abs(y.to - y.from));
      ctx.clip();
      const shown = trace.type === "heatmap" ? heat(ctx, trace, x.at, y.at) : line(ctx, trace, x.at, y.at, ink);
      ctx.restore();
      if (shown) scale(ctx, trace, x, y, ink, shown);
    }
    const place = (one, which, value) => {
      const ref = one[which + "ref"] || which;
      return ref === "paper" ? paper[which](value) : axisOf(which, ref).at(value);
    };
    for (const shape of [...(layout.shapes || []), ...marks]) {
      const [x0, x1] = [place(shape, "x", shape.x0), place(shape, "x", shape.x1)];
      const [y0, y1] = [place(shape, "y", shape.y0), place(shape, "y", shape.y1)];
      const pen = shape.line || {};
      ctx.strokeStyle = pen.color || ink;
      ctx.lineWidth = pen.width ?? 2;
      ctx.beginPath();
      if (shape.type === "line") { ctx.moveTo(x0, y0); ctx.lineTo(x1, y1); } else ctx.rect(x0, y0, x1 - x0, y1 - y0);
      if (shape.fillcolor) { ctx.fillStyle = shape.fillcolor; ctx.fill(); }
      if (ctx.lineWidth && pen.width !== 0) ctx.stroke();
    }
    ctx.textAlign = "left";
    ctx.textBaseline = "bottom";
    let right = m.l;
    const told = new Set();
    for (const trace of layout.showlegend ? data : []) {
      if (!trace.name || trace.showlegend === false || told.has(trace.name)) continue;
      told.add(trace.name);
      ctx.fillStyle = (trace.line || trace.marker || {}).color || ink;
      ctx.fillRect(right, m.t - 14, 18, 3);
      ctx.fillStyle = ink;
      ctx.fillText(trace.name, right + 24, m.t - 5);
      right += 44 + ctx.measureText(trace.name).width;
    }
    ctx.fillStyle = ink;
    for (const said of layout.annotations || []) {
      ctx.fillText(plain(said.text), place(said, "x", said.x), place(said, "y", said.y) - 3);
    }
  }

  window.ml4adSketch = () => {
    for (const frame of document.querySelectorAll("#ml4ad-poster .ml4ad-plot-frame")) {
      const { figure, marks } = JSON.parse(frame.querySelector("script").textContent);
      sketch(frame.querySelector(".ml4ad-plot"), figure, marks);
      frame.dataset.sketched = "1";
    }
  };
})();
