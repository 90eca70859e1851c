// A name in code may go on in the next line after an underscore, a slash, a comma, an equals sign or two colons, and nowhere else.
document.addEventListener("DOMContentLoaded", () => {
  for (const code of document.querySelectorAll("main table code .pre")) {
    code.innerHTML = code.innerHTML.replace(/(::|[_/=,])(?=[\w{])/g, "$1<wbr>");
  }
  // An option such as --threshold stays in one line.
  for (const code of document.querySelectorAll("main code .pre")) {
    if (/^-.{1,23}$/.test(code.textContent)) code.style.whiteSpace = "nowrap";
  }
});

// The attention explorer: folded, it loads when it is opened. It has the page's theme, which the frame's name tells it when it loads, and a message when it
// is there: a page of file:// may not touch its frames.
document.addEventListener("DOMContentLoaded", () => {
  const frames = document.querySelectorAll('iframe:is([src], [data-src])[title^="Attention explorer"]');
  const tell = () => {
    for (const frame of frames) {
      const { theme } = document.documentElement.dataset;
      frame.name = `theme-${theme}`;
      frame.contentWindow?.postMessage({ theme }, "*");
    }
  };
  for (const frame of frames) {
    frame.addEventListener("load", tell);
    const load = () => (frame.src ||= frame.dataset.src);
    if (frame.dataset.src) frame.closest("details").addEventListener("toggle", load, { once: true });
  }
  new MutationObserver(tell).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  tell();
});

// On a phone a table of sentences that is wider than the screen becomes a card a row: each cell stands beside the heading of its column. Tables of numbers scroll.
document.addEventListener("DOMContentLoaded", () => {
  const phone = matchMedia("(max-width: 599px)");
  const text = (cell) => cell.textContent.trim();
  const stack = () => {
    for (const table of document.querySelectorAll("article table:not(.dataframe, .stacked)")) {
      const rows = [...(table.tBodies[0]?.rows ?? [])];
      const heads = [...(table.tHead?.rows[0]?.cells ?? [])].map(text);
      const sentences = rows.some((row) => [...row.cells].slice(1).some((cell) => text(cell).length > 24));
      if (!sentences || table.scrollWidth <= table.clientWidth + 1) continue;
      table.classList.add("stacked");
      table.setAttribute("role", "table");
      for (const row of rows) {
        row.setAttribute("role", "row");
        [...row.cells].forEach((cell, i) => {
          cell.setAttribute("role", i ? "cell" : "rowheader");
          const value = document.createElement("div");
          value.append(...cell.childNodes);
          cell.append(value);
          cell.hidden = i > 0 && !text(cell);
          if (i) cell.dataset.heading = heads[i] ?? "";
        });
      }
    }
  };
  const look = () => phone.matches && document.fonts.ready.then(stack);
  phone.addEventListener("change", look);
  look();
});
