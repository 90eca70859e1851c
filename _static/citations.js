// A citation shows its entry of the bibliography on hover, on focus and by the first tap. The entries are in the page.
document.addEventListener("DOMContentLoaded", () => {
  const kept = document.getElementById("cited");
  if (!kept) return;
  let box = null, of = null, touched = false;

  const hide = () => {
    if (!box) return;
    box.remove();
    of.removeAttribute("aria-describedby");
    box = of = null;
  };

  const show = (link, entry) => {
    hide();
    of = link;
    box = document.createElement("div");
    box.className = "cited-entry";
    box.id = "cited-entry";
    box.setAttribute("role", "tooltip");
    box.innerHTML = entry.innerHTML;
    document.body.append(box);
    const at = link.getBoundingClientRect(), room = document.documentElement.clientWidth - box.offsetWidth - 16;
    const above = at.bottom + box.offsetHeight + 12 > window.innerHeight && at.top > box.offsetHeight + 12;
    box.style.left = `${window.scrollX + Math.max(16, Math.min(at.left, room))}px`;
    box.style.top = `${window.scrollY + (above ? at.top - box.offsetHeight - 6 : at.bottom + 6)}px`;
    link.setAttribute("aria-describedby", "cited-entry");
  };

  for (const link of document.querySelectorAll('article a[href*="bibliography.html#"]')) {
    const entry = kept.content.querySelector(`[data-entry="${CSS.escape(link.hash.slice(1))}"]`);
    if (!entry) continue;
    link.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && show(link, entry));
    link.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && setTimeout(() => box && !box.matches(":hover") && of === link && hide(), 200));
    link.addEventListener("pointerdown", (event) => (touched = event.pointerType !== "mouse"));
    link.addEventListener("focus", () => touched || show(link, entry));
    link.addEventListener("blur", () => touched || hide());
    link.addEventListener("click", (event) => {
      if (touched && of !== link) {
        event.preventDefault();
        show(link, entry);
      }
    });
  }
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
  document.addEventListener("pointerdown", (event) => box && !box.contains(event.target) && event.target !== of && !of.contains(event.target) && hide());
});
