// Draws the trait "figure" with plotly.js, and tells the kernel what was clicked.
let loading = null;

function library(model) {
  if (window.Plotly) return Promise.resolve(window.Plotly);
  if (loading) return loading;
  loading = new Promise((resolve, reject) => {
    const run = (url) => {
      const tag = document.createElement("script");
      tag.src = url;
      tag.onload = () => resolve(window.Plotly);
      tag.onerror = () => { loading = null; reject(new Error("plotly.js could not be loaded")); };
      document.head.appendChild(tag);
    };
    const served = document.querySelector("meta[name=ml4ad-plotly]");
    if (served) { run(served.content); return; }
    // Outside our own pages (JupyterLab) the kernel hands it over.
    const take = (message, buffers) => {
      if (!message || message.kind !== "plotly") return;
      model.off("msg:custom", take);
      run(URL.createObjectURL(new Blob([buffers[0]], { type: "text/javascript" })));
    };
    model.on("msg:custom", take);
    model.send({ kind: "plotly" });
  });
  return loading;
}

// Names of the rows between two heights, as many as fit; a subsystem's first row names it, too.
function rowTicks(rows, low, high, pixels) {
  const first = Math.max(0, Math.ceil(Math.min(low, high)));
  const last = Math.min(rows.length - 1, Math.floor(Math.max(low, high)));
  const apart = Math.max(1, Math.ceil(11 * (Math.abs(high - low) || 1) / Math.max(pixels, 1)));
  const subsystem = (row) => rows[row].split("/")[0];
  const heads = [];
  for (let row = first; row <= last; row += 1) {
    const begins = row === first || subsystem(row) !== subsystem(row - 1);
    if (begins && (!heads.length || row - heads.at(-1) >= apart)) heads.push(row);
  }
  const shown = [];
  for (let row = first; row <= last; row += 1) {
    const free = !shown.length || row - shown.at(-1) >= apart;
    const next = heads.find((head) => head > row);
    if (heads.includes(row) || (free && (next === undefined || next - row >= apart))) {
      shown.push(row);
    }
  }
  const text = (row) => {
    const name = rows[row].split("/").at(-1);
    const head = heads.includes(row) ? "<b>" + subsystem(row) + "</b> " : "";
    const most = head ? Math.max(9, 28 - subsystem(row).length) : 29;
    return head + (name.length > most ? name.slice(0, most - 1) + "…" : name);
  };
  return { tickvals: shown, ticktext: shown.map(text) };
}

function dressed(layout, el) {
  const style = getComputedStyle(el);
  const ink = style.getPropertyValue("--ml4ad-ink").trim() || "#1b1f24";
  const line = style.getPropertyValue("--ml4ad-line").trim() || "#d5d9de";
  const out = { ...layout };
  out.font = { family: "system-ui, 'DejaVu Sans', sans-serif", size: 12, color: ink };
  out.paper_bgcolor = "rgba(0,0,0,0)";
  out.plot_bgcolor = "rgba(0,0,0,0)";
  for (const name of Object.keys(out)) {
    if (/^[xy]axis\d*$/.test(name)) {
      out[name] = { gridcolor: line, zerolinecolor: line, linecolor: line, ...out[name] };
    }
  }
  return out;
}

export default {
  async render({ model, el }) {
    el.classList.add("ml4ad-plot-frame");
    const box = document.createElement("div");
    box.className = "ml4ad-plot";
    box.setAttribute("role", "img");
    const caption = document.createElement("div");
    caption.className = "ml4ad-caption";
    caption.setAttribute("aria-live", "polite");
    el.append(box, caption);
    let Plotly;
    try {
      Plotly = await library(model);
    } catch (error) {
      caption.textContent = "The picture cannot be drawn: " + error.message + ". Reload the page.";
      el.dataset.settled = "1";
      return;
    }
    let shown = false;
    let listening = false;
    const pick = (x, y, trace) => {
      const times = (model.get("clicked").times || 0) + 1;
      model.set("clicked", { x, y, trace, times });
      model.save_changes();
    };
    // With rows that have names, arrow keys go from the framed place to its neighbours.
    box.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      const rows = ((box.layout || {}).meta || {}).rows;
      if (!step || !rows) return;
      event.preventDefault();
      const [mark] = model.get("marks");
      const [x, y] = mark
        ? [Math.floor((mark.x0 + mark.x1) / 2), Math.round((mark.y0 + mark.y1) / 2)] : [1, 0];
      pick(Math.max(1, x + step[0]), Math.min(rows.length - 1, Math.max(0, y + step[1])), 0);
    });
    const draw = async () => {
      const figure = model.get("figure");
      box.setAttribute("aria-label", model.get("label"));
      if (!figure || !figure.data) {
        if (shown) Plotly.purge(box);
        shown = listening = false;
        box.style.display = "none";
        caption.textContent = "";
        el.dataset.settled = "1";
        return;
      }
      box.style.display = "";
      box.style.height = (figure.layout.height || 360) + "px";
      const layout = dressed(figure.layout, el);
      layout.shapes = [...(figure.layout.shapes || []), ...model.get("marks")];
      const rows = (layout.meta || {}).rows;
      if (rows) box.tabIndex = 0;
      const room = (figure.layout.height || 360) - 86;
      if (rows) {
        const kept = shown && box.layout.uirevision === layout.uirevision;
        const [low, high] = kept ? box.layout.yaxis.range : layout.yaxis.range;
        layout.yaxis = { ...layout.yaxis, ...rowTicks(rows, low, high, room) };
      }
      await Plotly.react(box, figure.data, layout, {
        responsive: true, displaylogo: false,
        modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
        toImageButtonOptions: { format: "png", scale: 2, filename: model.get("label") || "picture" },
      });
      shown = true;
      el.dataset.drawn = String(Number(el.dataset.drawn || 0) + 1);
      el.dataset.settled = "1";
      if (listening) return;
      listening = true;
      box.on("plotly_click", (event) => {
        const point = event.points[0];
        pick(point.x, point.y, point.curveNumber);
      });
      box.on("plotly_relayout", (change) => {
        const names = (box.layout.meta || {}).rows;
        if (!names || !Object.keys(change).some((key) => key.startsWith("yaxis.") && !key.includes("tick"))) return;
        const [low, high] = box.layout.yaxis.range;
        const ticks = rowTicks(names, low, high, box.clientHeight - 86);
        Plotly.relayout(box, { "yaxis.tickvals": ticks.tickvals, "yaxis.ticktext": ticks.ticktext });
      });
      box.on("plotly_hover", (event) => {
        const point = event.points[0];
        const words = ((box.layout.meta || {}).words) || null;
        if (!words || point.z === undefined) return;
        const row = (box.layout.meta.rows || [])[point.y] || point.y;
        const said = point.z < 0 ? words[String(-point.z)] || "not assessed"
          : "p = 10^-" + (point.z / 4).toFixed(1);
        caption.textContent = "LS " + point.x + ": " + row + ": " + said;
      });
    };
    const mark = () => {
      if (!shown) return;
      const own = model.get("figure").layout.shapes || [];
      Plotly.relayout(box, { shapes: [...own, ...model.get("marks")] });
    };
    model.on("change:figure", draw);
    model.on("change:marks", mark);
    const dark = window.matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", draw);
    await draw();
    return () => {
      dark.removeEventListener("change", draw);
      model.off("change:figure", draw);
      model.off("change:marks", mark);
      if (shown) Plotly.purge(box);
    };
  },
};
