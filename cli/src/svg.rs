//! A small writer of line charts as SVG 1.1, for one purpose: a loss curve that opens in any
//! browser, with marks for what happened on the way.

use std::fmt::Write as _;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 60.0;
const BOTTOM: f64 = 60.0;
/// About so many lines of a grid.
const TICKS: f64 = 6.0;

/// A chart of one curve.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) subtitle: String,
    pub(crate) x_name: String,
    pub(crate) y_name: String,
    /// From left to right; what is not finite is left out.
    pub(crate) points: Vec<(f64, f64)>,
    /// Vertical lines with a word each.
    pub(crate) marks: Vec<(f64, String)>,
}

/// A range of values and where they lie on the picture.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn of(values: impl Iterator<Item = f64> + Clone, from: f64, to: f64) -> Self {
        let mut low = values.clone().fold(f64::INFINITY, f64::min);
        let mut high = values.fold(f64::NEG_INFINITY, f64::max);
        if !low.is_finite() {
            (low, high) = (0.0, 1.0);
        }
        if high - low < 1e-9 {
            high = low + 1.0;
        }
        Self { low, high, from, to }
    }

    fn place(&self, value: f64) -> f64 {
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// Round numbers inside the range: 1, 2 or 5 times a power of ten apart.
    fn ticks(&self) -> Vec<f64> {
        let rough = (self.high - self.low) / TICKS;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .into_iter()
            .map(|factor| factor * power)
            .find(|step| *step >= rough)
            .unwrap_or(10.0 * power);
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step).floor() as i64;
        (first..=last).take(64).map(|index| index as f64 * step).collect()
    }
}

impl Chart {
    /// The picture.
    pub(crate) fn to_svg(&self) -> String {
        let points: Vec<(f64, f64)> =
            self.points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
        let x = Axis::of(points.iter().map(|point| point.0), LEFT, WIDTH - RIGHT);
        let y = Axis::of(points.iter().map(|point| point.1), HEIGHT - BOTTOM, TOP);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             width=\"{WIDTH}\" height=\"{HEIGHT}\" font-family=\"sans-serif\" role=\"img\">\n\
             <title>{}</title>\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n",
            escaped(&self.title)
        );
        text(&mut svg, (LEFT, 26.0), 18, "start", "#1a1a1a", &self.title);
        text(&mut svg, (LEFT, 46.0), 12, "start", "#595959", &self.subtitle);
        self.grid(&mut svg, &x, &y);
        self.draw_marks(&mut svg, &x);
        curve(&mut svg, &points, &x, &y);
        svg += "</svg>\n";
        svg
    }

    fn grid(&self, svg: &mut String, x: &Axis, y: &Axis) {
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        for tick in y.ticks() {
            let at = y.place(tick);
            line(svg, (LEFT, at), (right, at), "#e0e0e0");
            text(svg, (LEFT - 8.0, at + 4.0), 12, "end", "#404040", &number(tick));
        }
        for tick in x.ticks() {
            let at = x.place(tick);
            line(svg, (at, bottom), (at, bottom + 5.0), "#404040");
            text(svg, (at, bottom + 20.0), 12, "middle", "#404040", &number(tick));
        }
        line(svg, (LEFT, bottom), (right, bottom), "#404040");
        line(svg, (LEFT, TOP), (LEFT, bottom), "#404040");
        let middle = (LEFT + right) / 2.0;
        text(svg, (middle, HEIGHT - 14.0), 13, "middle", "#1a1a1a", &self.x_name);
        let half = (TOP + bottom) / 2.0;
        let _ = writeln!(
            svg,
            "<text x=\"18\" y=\"{half:.1}\" font-size=\"13\" text-anchor=\"middle\" \
             fill=\"#1a1a1a\" transform=\"rotate(-90 18 {half:.1})\">{}</text>",
            escaped(&self.y_name)
        );
    }

    fn draw_marks(&self, svg: &mut String, x: &Axis) {
        let inside = self.marks.iter().filter(|(at, _)| (x.low..=x.high).contains(at));
        for (at, _) in inside.clone() {
            let place = x.place(*at);
            let _ = writeln!(
                svg,
                "<line x1=\"{place:.1}\" y1=\"{TOP}\" x2=\"{place:.1}\" y2=\"{:.1}\" \
                 stroke=\"#b35900\" stroke-dasharray=\"4 3\"/>",
                HEIGHT - BOTTOM
            );
        }
        for (row, (at, word)) in inside.enumerate() {
            let place = x.place(*at);
            // Words one under the other and over the lines, so that close marks stay readable.
            let height = TOP + 14.0 + 16.0 * (row % 4) as f64;
            let (beside, anchor) =
                if place > WIDTH * 0.7 { (place - 5.0, "end") } else { (place + 5.0, "start") };
            text(svg, (beside, height), 12, anchor, "#8a4500", word);
        }
    }
}

fn curve(svg: &mut String, points: &[(f64, f64)], x: &Axis, y: &Axis) {
    let mut path = String::new();
    for (at, (px, py)) in points.iter().enumerate() {
        let verb = if at == 0 { 'M' } else { 'L' };
        let _ = write!(path, "{verb}{:.1} {:.1} ", x.place(*px), y.place(*py));
    }
    let _ = writeln!(
        svg,
        "<path d=\"{}\" fill=\"none\" stroke=\"#0b5cad\" stroke-width=\"2.5\" \
         stroke-linejoin=\"round\"/>",
        path.trim_end()
    );
    for (px, py) in points.iter().take(200) {
        let _ = writeln!(
            svg,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.5\" fill=\"#0b5cad\"/>",
            x.place(*px),
            y.place(*py)
        );
    }
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    let _ = writeln!(
        svg,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn text(svg: &mut String, at: (f64, f64), size: u32, anchor: &str, colour: &str, words: &str) {
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"{size}\" text-anchor=\"{anchor}\" \
         fill=\"{colour}\" stroke=\"#ffffff\" stroke-width=\"4\" paint-order=\"stroke\">{}</text>",
        at.0,
        at.1,
        escaped(words)
    );
}

/// A tick's number, short.
fn number(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        size if size >= 1e9 => (value / 1e9, " G"),
        size if size >= 1e6 => (value / 1e6, " M"),
        size if size >= 1e3 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    let text = format!("{scaled:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text}{unit}")
}

/// Text inside XML. Control characters are not allowed there at all.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: &[(f64, f64)]) -> Chart {
        Chart {
            title: "a < b & \"c\"\u{7}".into(),
            x_name: "词元".into(),
            points: points.to_vec(),
            marks: vec![(5.0, "family-2 killed".into()), (900.0, "outside".into())],
            ..Chart::default()
        }
    }

    #[test]
    fn a_falling_curve_goes_down_the_picture() {
        let svg = chart(&[(0.0, 5.5), (5.0, 4.0), (10.0, 3.0)]).to_svg();
        assert!(svg.contains("d=\"M70.0 60.0 L470.0 "), "{svg}");
        assert!(svg.contains("L870.0 420.0\""), "{svg}");
        assert!(svg.contains("family-2 killed") && !svg.contains("outside"));
        assert!(svg.contains("a &lt; b &amp; &quot;c&quot; ") && svg.contains("词元"));
    }

    #[test]
    fn no_points_one_point_and_no_numbers_still_make_a_picture() {
        for points in [&[][..], &[(3.0, 3.0)], &[(f64::NAN, 1.0), (1.0, f64::INFINITY)]] {
            let svg = chart(points).to_svg();
            assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"));
        }
    }

    #[test]
    fn ticks_are_round_numbers_inside_the_range() {
        let axis = Axis { low: 2.9, high: 5.6, from: 0.0, to: 1.0 };
        assert_eq!(axis.ticks(), [3.0, 3.5, 4.0, 4.5, 5.0, 5.5]);
        assert_eq!(number(1_500_000.0), "1.5 M");
        assert_eq!(number(0.25), "0.25");
    }
}
