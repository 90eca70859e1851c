/* Figures of the book: larger at a click or key, a slider through columns, a wipe from one panel to the next. No network, no framework. */
(() => {
  "use strict";

  const element = (tag, classes, attributes = {}, text = "") => {
    const made = document.createElement(tag);
    made.className = classes;
    Object.entries(attributes).forEach(([name, value]) => made.setAttribute(name, value));
    made.textContent = text;
    return made;
  };

  let sliders = 0;

  /* A labelled slider 0..last below a heading, which says where it stands in words. */
  const slider = (label, last, value, say, move) => {
    const id = `figure-slider-${(sliders += 1)}`;
    const box = element("div", "panels-slider");
    const input = element("input", "", { type: "range", id, min: 0, max: last, step: 1, value });
    const told = element("output", "", { for: id });
    const update = () => {
      told.textContent = say(Number(input.value));
      input.setAttribute("aria-valuetext", told.textContent);
      move(Number(input.value));
    };
    input.addEventListener("input", update);
    box.append(element("label", "", { for: id }, label), input, told);
    update();
    return box;
  };

  /* One column at a time: each row's panel of that column. */
  const slide = figure => {
    const rows = [...figure.querySelectorAll(".panels-row")].map(row => [...row.children]);
    const titles = rows[0].map(panel => (panel.querySelector(".panels-title") || panel).textContent);
    figure.prepend(slider("Show", titles.length - 1, 0, i => titles[i], i => rows.forEach(row => row.forEach((panel, j) => { panel.hidden = j !== i; }))));
    figure.classList.add("sliding");
  };

  /* The second panel over the first, as far as the slider says. */
  const wipe = figure => {
    figure.querySelectorAll(".panels-row").forEach(row => {
      const [first, second] = [...row.children];
      const frame = first.querySelector(".panels-frame");
      const over = element("div", "panels-over");
      over.append(...second.querySelector(".panels-frame").children);
      frame.append(over);
      const [before, after] = [first, second].map(panel => panel.querySelector(".panels-title").textContent);
      second.remove();
      first.querySelector(".panels-title").textContent = `${before} | ${after}`;
      const say = share => `${share} % of “${after}”`;
      row.before(slider("Wipe", 100, 50, say, share => { over.style.clipPath = `inset(0 0 0 ${100 - share}%)`; }));
    });
    figure.classList.add("wiping");
  };

  /* A drawing that is much wider than its column scrolls there, at its own size or, painted, at 40 rem, so that its words can be read. */
  const scroll = (image, painted) => {
    const box = element("div", "figure-scroll", { role: "region", "aria-label": "Figure, wider than the page" });
    image.before(box);
    box.append(image);
    const fit = () => {
      const own = painted ? Math.min(640, image.naturalWidth) : image.naturalWidth, wide = own > 1.35 * box.clientWidth;
      box.classList.toggle("wide", wide);
      image.style.setProperty("--own", `${own}px`);
      if (wide) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    };
    image.addEventListener("load", fit);
    addEventListener("resize", fit);
    fit();
  };

  let dialog = null;

  /* A figure on the whole window; Escape, the button or a click beside it close it, and what was focused is so again. */
  const enlarge = source => {
    if (!dialog) {
      dialog = element("dialog", "figure-large", { "aria-label": "Enlarged figure" });
      dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });
      document.body.append(dialog);
    }
    const close = element("button", "figure-close", { type: "button" }, "Close");
    close.addEventListener("click", () => dialog.close());
    const copy = source.cloneNode(true);
    copy.querySelectorAll(".panels-slider, .figure-enlarge").forEach(one => one.remove());
    copy.querySelectorAll("[hidden]").forEach(one => { one.hidden = false; });
    dialog.replaceChildren(close, copy);
    dialog.showModal();
  };

  const start = () => {
    document.querySelectorAll('.panels[data-way="slide"]').forEach(slide);
    document.querySelectorAll('.panels[data-way="wipe"]').forEach(wipe);
    document.querySelectorAll("article figure").forEach(figure => {
      const source = figure.querySelector(".panels") || figure.querySelector("img");
      source?.closest("a.image-reference")?.replaceWith(source); // a link to the picture itself
      if (!source || source.closest("a")) return;
      const button = element("button", "figure-enlarge", { type: "button", "aria-label": "Enlarge this figure", title: "Enlarge" }, "⤢");
      button.addEventListener("click", () => enlarge(source));
      source.addEventListener("click", event => { if (!event.target.closest("input, label, a")) enlarge(source); });
      source.style.cursor = "zoom-in";
      figure.prepend(button);
      if (source.matches("img")) scroll(source, !/\.svg|data:image\/svg/.test(source.src));
    });
  };

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
