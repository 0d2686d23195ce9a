// Elements as a tree of folders with counts, and a search; chosen names go to the trait "value".
const MOST = 300;

function matcher(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean).map((word) =>
    new RegExp(word.replace(/[.+^${}()|[\]\\]/g, "\\$&").replace(/\*/g, ".*").replace(/\?/g, ".")));
  return (name) => words.every((word) => word.test(name.toLowerCase()));
}

function folders(names) {
  const root = { count: 0, inside: new Map(), leaves: [] };
  for (const name of names) {
    const parts = name.split("/");
    let at = root;
    at.count += 1;
    for (const part of parts.slice(0, -1)) {
      if (!at.inside.has(part)) at.inside.set(part, { count: 0, inside: new Map(), leaves: [] });
      at = at.inside.get(part);
      at.count += 1;
    }
    at.leaves.push(name);
  }
  return root;
}

export default {
  render({ model, el }) {
    el.classList.add("ml4ad-tree");
    const search = document.createElement("input");
    search.type = "search";
    search.placeholder = "Search elements (words, *)";
    search.setAttribute("aria-label", "Search elements");
    const count = document.createElement("div");
    count.className = "ml4ad-count";
    count.setAttribute("aria-live", "polite");
    const list = document.createElement("div");
    list.className = "ml4ad-list";
    el.append(search, count, list);
    const opened = new Set();

    const choose = (name, add) => {
      const now = model.get("value");
      let next = [name];
      if (add) next = now.includes(name) ? now.filter((one) => one !== name) : [...now, name];
      model.set("value", next);
      model.save_changes();
    };
    const leaf = (name, text) => {
      const row = document.createElement("div");
      row.className = "ml4ad-leaf";
      const tick = document.createElement("input");
      tick.type = "checkbox";
      tick.checked = model.get("value").includes(name);
      tick.setAttribute("aria-label", "Overlay " + name);
      tick.title = "Show beside the others";
      tick.addEventListener("change", () => choose(name, true));
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = text;
      button.title = name;
      button.dataset.me = name;
      button.setAttribute("aria-pressed", String(tick.checked));
      button.addEventListener("click", (event) => choose(name, event.ctrlKey || event.metaKey));
      row.append(tick, button);
      return row;
    };
    const fill = (place, node, path) => {
      for (const [part, inside] of [...node.inside].sort((a, b) => a[0].localeCompare(b[0]))) {
        const folder = document.createElement("details");
        const head = document.createElement("summary");
        const full = path + part + "/";
        head.textContent = part + " ";
        const number = document.createElement("small");
        number.textContent = String(inside.count);
        head.append(number);
        folder.append(head);
        const holds = model.get("value").some((name) => name.startsWith(full));
        const body = document.createElement("div");
        body.className = "ml4ad-inside";
        folder.append(body);
        const open = () => { if (!body.childElementCount) fill(body, inside, full); };
        folder.addEventListener("toggle", () => {
          if (folder.open) { opened.add(full); open(); } else opened.delete(full);
        });
        if (opened.has(full) || holds || node.inside.size === 1) { folder.open = true; open(); }
        place.append(folder);
      }
      for (const name of node.leaves.slice(0, MOST)) place.append(leaf(name, name.split("/").at(-1)));
      if (node.leaves.length > MOST) {
        const rest = document.createElement("small");
        rest.textContent = "and " + (node.leaves.length - MOST) + " more: search for them";
        place.append(rest);
      }
    };
    const draw = () => {
      const top = list.scrollTop;
      const names = model.get("elements");
      const text = search.value.trim();
      const found = text ? names.filter(matcher(text)) : names;
      const chosen = model.get("value").length;
      count.textContent = (text ? found.length + " of " : "") + names.length + " elements, "
        + chosen + " chosen";
      list.replaceChildren();
      if (text && found.length <= MOST) {
        for (const name of found) list.append(leaf(name, name));
      } else {
        fill(list, folders(found), "");
      }
      if (!found.length) {
        list.textContent = names.length ? "No element fits. Fewer words find more." : "";
      }
      list.scrollTop = top;
    };
    const marked = () => {
      const now = new Set(model.get("value"));
      if (![...now].every((name) => list.querySelector(`button[data-me="${CSS.escape(name)}"]`))) {
        draw();
        return;
      }
      for (const button of list.querySelectorAll("button[data-me]")) {
        const own = now.has(button.dataset.me);
        button.setAttribute("aria-pressed", String(own));
        button.previousSibling.checked = own;
      }
      count.textContent = count.textContent.replace(/\d+ chosen/, now.size + " chosen");
    };
    search.addEventListener("input", draw);
    model.on("change:elements", draw);
    model.on("change:value", marked);
    draw();
  },
};
