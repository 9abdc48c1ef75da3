"""How the widgets look: one style sheet, in the front end's own theme colours."""

from fitkit._fit import Status
from fitkit._plotting import GREEN, ORANGE, PALETTE

BLUE, VERMILION = PALETTE[:2]
GREY = "#888888"

# Of a dot beside the words, so that colour alone never says it.
STATUS_COLOURS = {
    Status.READY: GREY,
    Status.COMPILING: ORANGE,
    Status.RUNNING: BLUE,
    Status.PAUSED: ORANGE,
    Status.FINISHED: GREEN,
    Status.STOPPED: GREY,
    Status.CONVERGED: GREEN,
    Status.STALLED: ORANGE,
    Status.NON_FINITE: VERMILION,
    Status.FAILED: VERMILION,
}

_SHEET = """<style>
.fitkit-live { width: 100%; box-sizing: border-box; overflow: hidden;
  container: fitkit / inline-size;
  color: var(--jp-ui-font-color1, inherit); gap: 2px; padding: 2px 4px 6px; }
.fitkit-live > .widget-html:first-child { height: 0; margin: 0; }
.fitkit-live .fitkit-status { width: auto; margin: 0 2px; line-height: 1.5; height: auto; }
.fitkit-live .fitkit-status .widget-html-content { white-space: normal; width: 100%; }
.fitkit-line { display: flex; flex-wrap: wrap; column-gap: 18px; align-items: baseline;
  font-variant-numeric: tabular-nums; min-height: 22px; }
.fitkit-line b { font-weight: 600; }
.fitkit-line .fitkit-dim, .fitkit-dim { color: var(--jp-ui-font-color2, inherit); opacity: .85; }
.fitkit-line .fitkit-news { margin-left: auto; color: var(--jp-ui-font-color2, inherit);
  overflow-wrap: anywhere; }
.fitkit-dot { display: inline-block; width: 9px; height: 9px; border-radius: 50%;
  margin-right: 7px; }
.fitkit-bar { height: 3px; border-radius: 2px; margin: 3px 0 5px;
  background: var(--jp-border-color2, #bbb); }
.fitkit-bar > div { height: 100%; border-radius: 2px; }
.fitkit-endless > div { background-image: repeating-linear-gradient(90deg, transparent 0 12px,
  var(--jp-border-color2, #bbb) 12px 18px); }
.fitkit-notice { border-left: 3px solid $VERMILION; padding: 3px 10px; margin: 2px 0 4px;
  background: var(--jp-layout-color2, #f4f4f4); white-space: pre-wrap; max-height: 9em;
  overflow: auto; }
.fitkit-live .fitkit-buttons { gap: 4px; flex-wrap: wrap; overflow: visible; margin: 0; }
.fitkit-live .fitkit-buttons :is(.widget-button, .widget-toggle-button) { width: auto;
  margin: 2px 0; border-radius: 3px; }
.fitkit-live .fitkit-buttons .fitkit-pause { min-width: 92px; }
.fitkit-live .fitkit-buttons .fitkit-count { width: 136px; margin: 2px 6px 2px 0; }
.fitkit-live .fitkit-buttons .fitkit-count .widget-label { width: 40px; }
.fitkit-live .fitkit-spring { flex: 1; }
.fitkit-live .fitkit-figure { width: 100%; height: auto; margin: 0; }
.fitkit-live .fitkit-eigenvectors { margin: 0 0 2px; overflow: visible; }
.fitkit-live .fitkit-eigenvectors > .widget-hbox { gap: 6px; overflow: visible; margin: 0; }
.fitkit-live .fitkit-choice { flex: 1 1 auto; width: auto; max-width: 480px;
  margin: 0 auto 0 0; }
.fitkit-live .fitkit-choice .widget-readout { min-width: 130px; }
.fitkit-live .fitkit-choice .widget-label { width: 90px; text-align: left; }
.fitkit-live .fitkit-words { width: auto; height: 44px; margin: 0 2px; overflow-y: auto; }
.fitkit-words .widget-html-content { line-height: 21px; white-space: normal; width: 100%;
  overflow-wrap: anywhere; }
.fitkit-live .fitkit-eigenvectors .widget-button { width: auto; flex: none; margin: 0;
  border-radius: 3px; }
.fitkit-live .fitkit-icon { font-size: 0; }
.fitkit-live .fitkit-icon i { font-size: 13px; line-height: 26px; margin: 0; }
.fitkit-components { display: flex; flex-wrap: wrap; column-gap: 14px; font-size: 90%;
  font-variant-numeric: tabular-nums; }
.fitkit-components i { display: inline-block; height: 8px; min-width: 1px; border-radius: 1px; }
.fitkit-live .fitkit-rows { overflow: visible; margin: 0; }
.fitkit-live .fitkit-in-columns { display: block; overflow: visible; margin: 0; }
.fitkit-in-columns, .fitkit-head .widget-html-content { columns: 2 $COLUMNpx;
  column-gap: $GAPpx; }
.fitkit-in-columns > * { break-inside: avoid; }
.fitkit-live .fitkit-row { overflow: visible; align-items: center; min-height: 30px; margin: 0;
  column-gap: 8px; }
.fitkit-live .fitkit-row > * { margin-top: 0; margin-bottom: 0; }
.fitkit-live .fitkit-row .widget-html-content { line-height: 28px; }
.fitkit-live .fitkit-swatch { width: 26px; flex: none; margin: 0; }
.fitkit-live .fitkit-open, .fitkit-live .fitkit-reset { width: 30px; padding: 0; flex: none;
  margin: 0; border-radius: 3px; }
.fitkit-live .fitkit-row .fitkit-open { width: 26px; display: none; }
.fitkit-live .fitkit-row.fitkit-group .fitkit-open { display: block; }
.fitkit-live .fitkit-group { position: relative; }
.fitkit-live .fitkit-group .fitkit-swatch { position: absolute; left: 2px; top: 24px; height: 3px;
  z-index: 1; overflow: visible; pointer-events: none; }
.fitkit-live .fitkit-group .fitkit-swatch i { display: block; }
.fitkit-swatch i { display: inline-block; width: 22px; vertical-align: middle;
  border-top-width: 3px; }
.fitkit-live .fitkit-slider { flex: 1 1 150px; min-width: 100px; width: auto; margin: 0; }
.fitkit-live .fitkit-row .fitkit-name { flex: 0 1 190px; min-width: 60px; margin: 0;
  overflow: hidden; font-family: var(--jp-code-font-family, monospace); }
.fitkit-name .widget-html-content { white-space: nowrap; text-overflow: ellipsis;
  overflow: hidden; width: 100%; }
.fitkit-columns .fitkit-name { flex: 0 1 190px; min-width: 60px; }
.fitkit-live .fitkit-old { opacity: .55; }
.fitkit-live .fitkit-rate { width: 104px; flex: none; margin: 0; }
.fitkit-live .fitkit-unseen, .fitkit-live .fitkit-slider .widget-label,
.fitkit-live .fitkit-rate .widget-label, .fitkit-live .fitkit-code .widget-label,
.fitkit-live .fitkit-number .widget-hslider .widget-label { position: absolute;
  width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.fitkit-live .fitkit-freeze { width: 78px; flex: none; margin: 0; border-radius: 3px; }
.fitkit-live .fitkit-value { flex: 0 1 230px; min-width: 90px; margin: 0; overflow: hidden; }
.fitkit-value .widget-html-content { white-space: nowrap; text-overflow: ellipsis;
  overflow: hidden; font-variant-numeric: tabular-nums; width: 100%; }
.fitkit-live .fitkit-bar-of-many { gap: 6px; margin: 4px 0 0; overflow: visible;
  align-items: center; }
.fitkit-live .fitkit-filter { flex: 1 1 auto; margin: 0; }
.fitkit-live .fitkit-filter .widget-label { width: 40px; text-align: left; }
.fitkit-live .fitkit-bar-of-many .widget-button { width: 34px; margin: 0; border-radius: 3px; }
.fitkit-live .fitkit-none { display: none; }
.fitkit-live .fitkit-number .widget-text { width: 300px; }
.fitkit-live .fitkit-number .widget-text .widget-label { width: 160px; text-align: left;
  font-family: var(--jp-code-font-family, monospace); }
.fitkit-live .fitkit-card .widget-html-content { line-height: 1.5; white-space: normal; }
.fitkit-live .fitkit-card :is(th, td) { vertical-align: top; }
.fitkit-live .fitkit-card :is(th, td):first-child { padding-right: 14px; text-align: left; }
.fitkit-live .fitkit-card p { margin: 6px 0 0; }
.fitkit-live .fitkit-together { border-bottom: 1px solid var(--jp-border-color2, #bbb); }
.fitkit-live .fitkit-head { height: 20px; width: 100%; margin: 0; overflow: hidden; }
.fitkit-live .fitkit-head .widget-html-content { width: 100%; line-height: 20px; }
.fitkit-columns { display: flex; column-gap: 8px; font-size: 88%;
  color: var(--jp-ui-font-color2, inherit); }
@container fitkit (max-width: $TWO_LINESpx) {
  .fitkit-live .fitkit-row { flex-wrap: wrap; }
  .fitkit-live .fitkit-row :is(.fitkit-name, .fitkit-value) { flex: 1 1 35%; }
  .fitkit-live .fitkit-row .fitkit-slider { margin-left: 34px; }
  .fitkit-columns :is(.fitkit-name, .fitkit-value) { flex: 1 1 35%; }
  .fitkit-columns > :nth-child(n + 4) { display: none; }
  .fitkit-live .fitkit-eigenvectors > .widget-hbox { flex-wrap: wrap; }
  .fitkit-live .fitkit-choice { flex-basis: 100%; max-width: none; } }
.fitkit-live :is(button, input, [role=slider]):focus-visible {
  outline: 2px solid var(--jp-brand-color1, #2196f3); outline-offset: 1px; }
.fitkit-live .fitkit-frozen .slider-container { opacity: .35; }
</style>"""

# CSS pixels of a row at least where rows stand in two columns, of what is between these, and where
# each row has one line: in less the name and the value would be cut.
COLUMN, GAP, TWO_LINES = 720, 36, 620
SHEET = (
    _SHEET.replace("$VERMILION", VERMILION)
    .replace("$COLUMN", str(COLUMN))
    .replace("$GAP", str(GAP))
    .replace("$TWO_LINES", str(TWO_LINES))
)
