// Where Roost stands on its host: "" or, behind a proxy, a path such as "/roost".
export const at = (path) => (document.documentElement.dataset.base ?? "") + path;
