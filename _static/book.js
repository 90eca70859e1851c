// A name in code may go on in the next line after an underscore, a slash or two colons, and nowhere else.
document.addEventListener("DOMContentLoaded", () => {
  for (const code of document.querySelectorAll("main table code .pre")) {
    code.innerHTML = code.innerHTML.replace(/(::|[_/])(?=\w)/g, "$1<wbr>");
  }
});
