// Owns the switch between dark and light: as the system says until a person chooses. The choice is kept.

const KEY = "edgesink.theme";
const dark = matchMedia("(prefers-color-scheme: dark)");

/** Make `button` the switch. */
export function themeSwitch(button) {
  const show = () => {
    const chosen = localStorage.getItem(KEY);
    const isDark = chosen === null ? dark.matches : chosen === "dark";
    const other = isDark ? "light" : "dark";
    if (chosen !== null) document.documentElement.dataset.theme = chosen;
    button.textContent = isDark ? "☀" : "☾";
    button.setAttribute("aria-label", `Switch to ${other} colours`);
    button.onclick = () => {
      localStorage.setItem(KEY, other);
      show();
    };
  };
  dark.addEventListener("change", show);
  show();
}
