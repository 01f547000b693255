// Numbers and times as people read them.

/** Return a share as percent. */
export function percent(value, digits = 1) {
  return value === null || value === undefined ? '–' : `${(100 * value).toFixed(digits)} %`;
}

/** Return a number with few digits; large ones with separators. */
export function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return '–';
  const size = Math.abs(value);
  if (size >= 10000) return Math.round(value).toLocaleString('en');
  if (size >= 100) return value.toFixed(0);
  if (Number.isInteger(value)) return String(value);
  if (size >= 1) return value.toFixed(2);
  if (size === 0) return '0';
  return size < 0.0005 ? value.toExponential(1) : value.toFixed(size < 0.01 ? 4 : 3);
}

/** Return a number with its sign. */
export function signed(value, digits = 2) {
  if (value === null || value === undefined) return '–';
  return `${value > 0 ? '+' : value < 0 ? '−' : ''}${Math.abs(value).toFixed(digits)}`;
}

/** Return a reward: its sign, and no digits that say nothing. */
export function reward(value) {
  if (value === null || value === undefined) return 'none';
  const text = Math.abs(value).toFixed(2).replace(/\.?0+$/, '');
  return `${value > 0 ? '+' : value < 0 ? '−' : ''}${text}`;
}

/** Return a duration in its two largest units. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return '–';
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

/** Return how long ago a moment is. */
export function ago(seconds) {
  const passed = Date.now() / 1000 - seconds;
  if (!(seconds > 0)) return '–';
  return passed < 5 ? 'now' : `${duration(passed)} ago`;
}

/** Return a moment, in seconds since 1970, as date and time. */
export function moment(at) {
  const date = new Date(at * 1000);
  if (Number.isNaN(date.getTime())) return '–';
  return date.toLocaleString('sv', { dateStyle: 'short', timeStyle: 'medium' });
}

/** Return bytes in GiB or MiB. */
export function bytes(value) {
  if (!value) return '–';
  return value >= 2 ** 30 ? `${(value / 2 ** 30).toFixed(1)} GiB` : `${Math.round(value / 2 ** 20)} MiB`;
}

/** Return a key of a file as words. */
export function words(key) {
  return String(key).replaceAll('_', ' ');
}

/** Return a value of a file as one line of text. */
export function line(value) {
  if (value === null || value === undefined) return 'none';
  return typeof value === 'string' ? value : JSON.stringify(value);
}
