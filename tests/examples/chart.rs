//! Draws the results of `scripts/bench --json`: `chart ROWS.json CHART.svg`.

use std::error::Error;

use plotters::prelude::*;
use serde_json::Value;

/// A panel. Each bar has a label, and the row and field of its value.
struct Panel {
    title: &'static str,
    unit: &'static str,
    bars: &'static [(&'static str, &'static str, &'static str)],
}

const PANELS: [Panel; 3] = [
    Panel {
        title: "CPU of the machine that hands out one compile of Redis",
        unit: "ms",
        bars: &[
            ("OS Walk", "origin CPU per walked compile, warm", "measured"),
            ("distcc", "origin CPU per walked compile, warm", "beside"),
            ("compiled there", "runner CPU per compile, warm: the processes", "beside"),
        ],
    },
    Panel {
        title: "CPU of the node that compiles it",
        unit: "ms",
        bars: &[
            ("OS Walk", "runner CPU per compile, warm: all of the node", "measured"),
            ("distcc", "distcc's node: all of it", "measured"),
            ("native", "runner CPU per compile, warm: the processes", "beside"),
        ],
    },
    Panel {
        title: "Starting /bin/true on a node",
        unit: "ms",
        bars: &[
            ("OS Walk", "a walked true over a native one, p50", "measured"),
            (
                "ssh, open connection",
                "  beside it: by ssh over a connection that is open, p50",
                "measured",
            ),
            ("native, at home", "a walked true over a native one, p50", "beside"),
        ],
    },
];

const WIDTH: u32 = 900;
const BAR: i32 = 22;
const GAP: i32 = 10;
const LEFT: i32 = 190;
const RIGHT: i32 = 110;
const OURS: RGBColor = RGBColor(38, 110, 180);
const THEIRS: RGBColor = RGBColor(150, 160, 170);

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(rows), Some(chart)) = (arguments.next(), arguments.next()) else {
        return Err("usage: chart ROWS.json CHART.svg".into());
    };
    let rows: Value = serde_json::from_slice(&std::fs::read(rows)?)?;
    let panels: Vec<_> = PANELS.iter().map(|panel| (panel, values(panel, &rows["rows"]))).collect();
    let panels: Vec<_> = panels.into_iter().filter(|(_, bars)| !bars.is_empty()).collect();
    let height = |bars: usize| 46 + i32::try_from(bars).unwrap_or(0) * (BAR + GAP);
    let total: i32 = panels.iter().map(|(_, bars)| height(bars.len())).sum();
    let area = SVGBackend::new(&chart, (WIDTH, u32::try_from(total + GAP)?)).into_drawing_area();
    area.fill(&WHITE)?;
    let text = |size: i32| ("sans-serif", size).into_font().color(&BLACK);
    let mut top = GAP;
    for (panel, bars) in &panels {
        area.draw(&Text::new(panel.title, (GAP, top), text(17)))?;
        let most = bars.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
        let room = f64::from(i32::try_from(WIDTH)? - LEFT - RIGHT);
        for (index, (label, value)) in bars.iter().enumerate() {
            let y = top + 30 + i32::try_from(index)? * (BAR + GAP);
            // Even the shortest bar is visible.
            let length = (value / most * room).max(2.0);
            #[expect(clippy::cast_possible_truncation, reason = "pixels of a picture")]
            let end = LEFT + length as i32;
            let colour = if *label == "OS Walk" { OURS } else { THEIRS };
            area.draw(&Text::new(*label, (GAP * 2, y + 4), text(14)))?;
            area.draw(&Rectangle::new([(LEFT, y), (end, y + BAR)], colour.filled()))?;
            let shown = format!("{} {}", short(*value), panel.unit);
            area.draw(&Text::new(shown, (end + 8, y + 4), text(14)))?;
        }
        top += height(bars.len());
    }
    Ok(area.present()?)
}

/// Returns the bars of a panel that were measured.
fn values(panel: &Panel, rows: &Value) -> Vec<(&'static str, f64)> {
    let find = |what: &str, field: &str| {
        let row = rows.as_array()?.iter().find(|row| row["what"] == what)?;
        row[field].as_f64()
    };
    panel.bars.iter().filter_map(|&(label, row, field)| Some((label, find(row, field)?))).collect()
}

fn short(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}
