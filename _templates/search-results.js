// The results of Sphinx's search, chapters before the library, each with a piece of the text that was found. It works from file://.
Search.query = (query) => {
  const [asked, terms, excluded, marked, objects] = Search._parseQuery(query);
  const library = (page) => /^(api|genindex|py-modindex)/.test(page);
  const found = Search._performSearch(asked, terms, excluded, marked, objects).reverse();
  const results = [...found.filter((one) => !library(one[0])), ...found.filter((one) => library(one[0]))];
  const words = [...new Set([...marked, ...terms])].filter((word) => word.length > 1);
  const pattern = words.length ? new RegExp(`(?<![A-Za-z])(?:${words.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|")})`, "gi") : null;
  const length = 180;

  // The piece of a page around the place where most of the words are near each other: [its anchor, its text].
  const piece = (page, anchor) => {
    const parts = Object.entries(Search.texts[page] || {}).filter(([place]) => !anchor || `#${place}` === anchor);
    let best = [0, "", ""];
    for (const [place, text] of parts) {
      const hits = pattern ? [...text.matchAll(pattern)] : [];
      for (const hit of hits) {
        const near = new Set(hits.filter((other) => other.index >= hit.index && other.index < hit.index + length).map((other) => other[0].toLowerCase()));
        if (near.size > best[0]) {
          const start = Math.max(0, hit.index - 60), end = Math.min(text.length, start + length);
          best = [near.size, place, (start ? "… " : "") + text.slice(start ? text.indexOf(" ", start) + 1 : 0, end).trim() + (end < text.length ? " …" : "")];
        }
      }
    }
    return best[0] || !anchor ? best.slice(1) : ["", (Object.values(Object.fromEntries(parts))[0] || "").slice(0, length)];
  };

  const show = (text, into) => {
    let last = 0;
    for (const hit of pattern ? text.matchAll(pattern) : []) {
      into.append(text.slice(last, hit.index), Object.assign(document.createElement("mark"), { textContent: hit[0] }));
      last = hit.index + hit[0].length;
    }
    into.append(text.slice(last));
  };

  Search.output.classList.add("results");
  const seen = new Set();
  for (const [page, title, anchor, description] of results) {
    const [place, text] = piece(page, anchor);
    const target = page + DOCUMENTATION_OPTIONS.LINK_SUFFIX + (anchor || (place ? `#${place}` : ""));
    if (seen.has(target)) continue;
    seen.add(target);
    const item = document.createElement("li"), link = document.createElement("a"), kind = document.createElement("span");
    link.href = target;
    link.innerHTML = title;
    kind.className = "kind";
    kind.textContent = library(page) ? `library${description ? `, ${new DOMParser().parseFromString(description, "text/html").body.textContent}` : ""}` : "";
    item.append(link, kind);
    if (text) show(text, item.appendChild(document.createElement("p")));
    Search.output.append(item);
  }
  _finishSearch(seen.size);
};
