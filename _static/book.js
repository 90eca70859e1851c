// A name in code may go on in the next line after an underscore, a slash or two colons, and nowhere else.
document.addEventListener("DOMContentLoaded", () => {
  for (const code of document.querySelectorAll("main table code .pre")) {
    code.innerHTML = code.innerHTML.replace(/(::|[_/])(?=\w)/g, "$1<wbr>");
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
