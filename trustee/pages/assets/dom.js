// Making elements. Text goes in as text: there is no way from a string to markup in this file, and
// the page's policy forbids it everywhere else.

const SVG = 'http://www.w3.org/2000/svg';

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name === 'href') {
      // Links lead to places of this page only.
      if (!String(value).startsWith('#/')) throw new Error('a link must lead into this page');
      element.setAttribute('href', value);
    } else if (name === 'value') element.value = value;
    else element.setAttribute(name, value === true ? '' : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Return an HTML element: `h('p', {class: 'note'}, 'text', h('b', null, 'bold'))`. */
export function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Return an SVG element. */
export function s(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** Put children in place of all that an element holds. */
export function put(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Return a link to a place of this page: parts of the path, and a query. */
export function place(parts, query) {
  const path = parts.map((part) => encodeURIComponent(part)).join('/');
  const asked = new URLSearchParams(Object.entries(query || {}).filter(([, value]) => value !== '' && value !== null && value !== undefined));
  return `#/${path}${[...asked].length ? `?${asked}` : ''}`;
}

/**
 * Return a function that puts what `make` makes of plain data into a node, unless it is the same as
 * before: what a reader points at or has marked is then not taken away.
 */
export function drawn(node, make) {
  let before = null;
  return (given) => {
    const now = JSON.stringify(given);
    if (now === before) return;
    before = now;
    put(node, make(given));
  };
}
