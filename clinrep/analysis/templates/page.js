"use strict";
// What every page has: light and dark, and everything open on paper.
(() => {
  const root = document.documentElement;
  root.classList.add("scripted");
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme || (system.matches ? "dark" : "light")) === "dark";

  function remember(theme) {
    try { localStorage.setItem("theme", theme); } catch { /* a page opened from a disk may have no storage */ }
  }

  function recall() {
    try { return localStorage.getItem("theme"); } catch { return null; }
  }

  const known = recall();
  if (known === "light" || known === "dark") root.dataset.theme = known;

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const show = () => {
      button.textContent = isDark() ? "Light" : "Dark";
      button.setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`);
    };
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      remember(root.dataset.theme);
      show();
    });
    system.addEventListener("change", show);
    show();
  });

  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const part of opened) part.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const part of opened) part.open = false;
    opened = [];
  });
})();
