// SPDX-License-Identifier: Apache-2.0
//! Two surfaces to draw the same picture on: SVG text for the page, pixels for the PNG. The
//! letters of the PNG come from a bitmap font that is compiled in, since a machine that runs
//! tests need not have any.

use std::fmt::Write as _;

use font8x8::UnicodeFonts as _;

/// Pixels of a letter of the bitmap font, and of one on the picture.
const GLYPH: i32 = 8;
const SCALE: i32 = 2;
/// Width of a letter on either surface.
pub const LETTER: f64 = 9.0;
/// Pixels of the PNG per unit of the picture.
const DENSITY: f64 = 1.6;

/// Red, green, blue.
pub type Color = [u8; 3];

/// Something to draw on, in units with the origin at the top left.
pub trait Canvas {
    /// A filled rectangle, this opaque (0 to 1); `about` is shown when pointed at.
    fn rect(&mut self, at: (f64, f64), size: (f64, f64), color: Color, opacity: f64, about: &str);
    /// A line through these points.
    fn line(&mut self, points: &[(f64, f64)], color: Color);
    /// Text that begins here, on this base line.
    fn text(&mut self, at: (f64, f64), text: &str, color: Color);
}

/// Draws SVG.
pub struct Svg {
    out: String,
}

/// Draws pixels.
pub struct Pixels {
    width: i32,
    height: i32,
    data: Vec<u8>,
}

impl Svg {
    /// An empty picture.
    #[must_use]
    pub fn new(width: f64, height: f64) -> Svg {
        let out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"100%\" \
             font-family=\"monospace\" font-size=\"14\">\n"
        );
        Svg { out }
    }

    /// The whole element.
    #[must_use]
    pub fn finish(mut self) -> String {
        self.out.push_str("</svg>\n");
        self.out
    }

    /// Writing to a string cannot fail.
    fn push(&mut self, text: std::fmt::Arguments<'_>) {
        self.out.write_fmt(text).unwrap_or_default();
    }
}

impl Canvas for Svg {
    fn rect(&mut self, at: (f64, f64), size: (f64, f64), color: Color, opacity: f64, about: &str) {
        let ((x, y), (width, height)) = (at, size);
        self.push(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{}\" \
             fill-opacity=\"{opacity}\"><title>{}</title></rect>\n",
            hex(color),
            escaped(about)
        ));
    }

    fn line(&mut self, points: &[(f64, f64)], color: Color) {
        let points: String = points.iter().map(|(x, y)| format!("{x:.1},{y:.1} ")).collect();
        self.push(format_args!(
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.5\"/>\n",
            hex(color)
        ));
    }

    fn text(&mut self, at: (f64, f64), text: &str, color: Color) {
        let (x, y) = at;
        let (color, text) = (hex(color), escaped(text));
        self.push(format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"{color}\">{text}</text>\n"));
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "coordinates of a picture")]
impl Pixels {
    /// A white picture.
    #[must_use]
    pub fn new(width: f64, height: f64) -> Pixels {
        let (width, height) = ((width * DENSITY) as i32, (height * DENSITY) as i32);
        Pixels { width, height, data: vec![255; (width * height * 3) as usize] }
    }

    /// The picture as PNG.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn finish(self) -> anyhow::Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut encoder = png::Encoder::new(&mut out, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.write_header()?.write_image_data(&self.data)?;
        Ok(out)
    }

    fn blend(&mut self, x: i32, y: i32, color: Color, opacity: f64) {
        if !(0..self.width).contains(&x) || !(0..self.height).contains(&y) {
            return;
        }
        let at = ((y * self.width + x) * 3) as usize;
        for (channel, wanted) in self.data[at..at + 3].iter_mut().zip(color) {
            *channel = (f64::from(*channel) * (1.0 - opacity) + f64::from(wanted) * opacity) as u8;
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "coordinates of a picture")]
impl Canvas for Pixels {
    fn rect(&mut self, at: (f64, f64), size: (f64, f64), color: Color, opacity: f64, _about: &str) {
        let (left, top) = ((at.0 * DENSITY) as i32, (at.1 * DENSITY) as i32);
        let right = (((at.0 + size.0) * DENSITY) as i32).max(left + 1);
        let bottom = (((at.1 + size.1) * DENSITY) as i32).max(top + 1);
        for y in top..bottom {
            for x in left..right {
                self.blend(x, y, color, opacity);
            }
        }
    }

    fn line(&mut self, points: &[(f64, f64)], color: Color) {
        for ends in points.windows(2) {
            let ((x0, y0), (x1, y1)) = (ends[0], ends[1]);
            let steps = ((x1 - x0).abs().max((y1 - y0).abs()) * DENSITY).ceil().max(1.0);
            for step in 0..=steps as i32 {
                let share = f64::from(step) / steps;
                let (x, y) = ((x0 + (x1 - x0) * share) * DENSITY, (y0 + (y1 - y0) * share) * DENSITY);
                self.blend(x as i32, y as i32, color, 1.0);
                self.blend(x as i32, y as i32 + 1, color, 0.6);
            }
        }
    }

    fn text(&mut self, at: (f64, f64), text: &str, color: Color) {
        let top = (at.1 * DENSITY) as i32 - GLYPH * SCALE;
        for (index, letter) in text.chars().enumerate() {
            let left = ((at.0 + LETTER * index as f64) * DENSITY) as i32;
            let rows = font8x8::BASIC_FONTS.get(letter).unwrap_or_default();
            for (row, bits) in (0..).zip(rows) {
                for column in (0..GLYPH).filter(|column| bits & (1 << column) != 0) {
                    for (x, y) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                        self.blend(left + column * SCALE + x, top + row * SCALE + y, color, 1.0);
                    }
                }
            }
        }
    }
}

fn hex([red, green, blue]: Color) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

/// Text for an element's content.
#[must_use]
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
