// The frame of a page: its links, its address, its pulse, and files that are handed over.
const PULSE_MS = 2000;
const SILENT_MS = 20000;

// Takes the poster away when all that it shows is drawn beneath it.
function lift() {
  const poster = document.getElementById("ml4ad-poster");
  const until = Date.now() + 15000;
  const look = () => {
    const drawn = [...document.querySelectorAll(".ml4ad-plot-frame")]
      .every((one) => poster?.contains(one) || one.dataset.settled);
    if (!drawn && Date.now() < until) { setTimeout(look, 30); return; }
    poster?.remove();
    document.getElementById("ml4ad-starting")?.remove();
  };
  look();
}

export default {
  render({ model, el }) {
    el.classList.add("ml4ad-frame");
    const ours = document.querySelector("meta[name=ml4ad-plotly]");
    const bar = document.createElement("nav");
    bar.className = "ml4ad-nav";
    bar.setAttribute("aria-label", "Pages");
    const link = (text, href, here) => {
      const one = document.createElement("a");
      one.textContent = text;
      one.href = href;
      if (here) one.setAttribute("aria-current", "page");
      bar.append(one);
      return one;
    };
    // What is looked at goes along to the pages that show a run.
    const along = [];
    if (ours) {
      link("ml4ad", "../../", false);
      const pages = model.get("pages");
      const holds = pages.some(([name, , ofRun]) => ofRun && name === model.get("page"));
      for (const [name, title, ofRun] of pages) {
        const one = link(title, name + ".ipynb", name === model.get("page"));
        if (ofRun && holds && name !== model.get("page")) along.push([one, name + ".ipynb"]);
      }
    }
    const silent = document.createElement("div");
    silent.className = "ml4ad-silent";
    silent.setAttribute("role", "alert");
    silent.hidden = true;
    el.append(bar, silent);

    let last = Date.now();
    let began = null;
    const address = () => {
      if (!ours) return;
      const view = model.get("view");
      const keep = window.location.pathname + (view ? "?" + view : "");
      if (view !== null && began !== null) window.history.replaceState(null, "", keep);
      const said = new URLSearchParams(view || "");
      const kept = new URLSearchParams();
      for (const name of ["dataset", "run"]) if (said.get(name)) kept.set(name, said.get(name));
      for (const [one, href] of along) one.href = href + (kept.has("dataset") ? "?" + kept : "");
    };
    model.on("change:view", address);
    model.on("msg:custom", (message, buffers) => {
      if (message.kind === "beat") { last = Date.now(); silent.hidden = true; }
      if (message.kind === "ready") { began = Date.now(); address(); lift(); }
      if (message.kind === "go" && ours) window.location.assign(message.where);
      if (message.kind === "download") {
        const file = document.createElement("a");
        file.href = URL.createObjectURL(new Blob([buffers[0]], { type: message.mime }));
        file.download = message.name;
        document.body.append(file);
        file.click();
        file.remove();
        setTimeout(() => URL.revokeObjectURL(file.href), 60000);
      }
    });
    if (!document.getElementById("ml4ad-poster")) document.getElementById("ml4ad-starting")?.remove();
    model.send({ kind: "hello", search: ours ? window.location.search.slice(1) : "" });
    const pulse = setInterval(() => {
      if (document.hidden && Date.now() - last < 10000) return;
      model.send({ kind: "pulse" });
      if (Date.now() - last > SILENT_MS && !document.hidden) {
        silent.textContent = "The server has not answered since "
          + new Date(last).toLocaleTimeString() + ". What you see is of that time. "
          + "Reload the page; if that does not help, call the expert on duty.";
        silent.hidden = false;
      }
    }, PULSE_MS);
    // Whoever leaves ends the kernel, while this page is still there to ask it.
    const leave = () => clearInterval(pulse);
    window.addEventListener("beforeunload", leave);
    return () => {
      window.removeEventListener("beforeunload", leave);
      leave();
    };
  },
};
