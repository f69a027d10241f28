//! Text for a person: colours and redrawing on a terminal, plain lines elsewhere.

use std::{
    io::{IsTerminal as _, Write as _},
    process::{Command, Stdio},
};

/// A colour, by what it means here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ink {
    Plain,
    Title,
    Dim,
    Good,
    Bad,
    Warn,
}

/// Where the story is told.
#[derive(Debug)]
pub struct Screen {
    colour: bool,
    /// Lines can be drawn again: a terminal that is wide enough for them.
    live: bool,
    drawn: usize,
}

/// The widest line of a table.
const TABLE_WIDTH: usize = 80;

impl Screen {
    pub fn new() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let told_not_to = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self {
            colour: terminal && !told_not_to && !dumb,
            live: terminal && !dumb && columns().is_some_and(|columns| columns >= TABLE_WIDTH),
            drawn: 0,
        }
    }

    pub fn ink(&self, ink: Ink, text: &str) -> String {
        let code = match ink {
            Ink::Plain => return text.to_owned(),
            Ink::Title => "1",
            Ink::Dim => "2",
            Ink::Good => "32",
            Ink::Bad => "31",
            Ink::Warn => "33",
        };
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// The title of a step, with room before it.
    pub fn title(&self, number: usize, text: &str) {
        println!("\n{}", self.ink(Ink::Title, &format!("{number}. {text}")));
    }

    #[expect(clippy::unused_self, reason = "what is shown goes through the screen")]
    pub fn say(&self, text: &str) {
        println!("   {text}");
    }

    pub fn dim(&self, text: &str) {
        println!("   {}", self.ink(Ink::Dim, text));
    }

    /// Lines that are still changing: shown only where they can be drawn again.
    pub fn draft(&mut self, lines: &[String]) {
        if self.live {
            self.redraw(lines);
        }
    }

    /// The lines as they stay.
    pub fn settle(&mut self, lines: &[String]) {
        self.redraw(lines);
        self.drawn = 0;
    }

    fn redraw(&mut self, lines: &[String]) {
        let mut text = String::new();
        if self.drawn > 0 {
            text = format!("\x1b[{}A", self.drawn);
        }
        let clear = if self.live { "\x1b[2K" } else { "" };
        for line in lines {
            text.push_str(clear);
            text.push_str("   ");
            text.push_str(line);
            text.push('\n');
        }
        let mut out = std::io::stdout().lock();
        // A reader that has had enough, such as head, is no reason to stop in the middle: the end tidies up.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        self.drawn = lines.len();
    }
}

/// How wide the terminal is; there is no way to ask in the standard library.
fn columns() -> Option<usize> {
    let asked = Command::new("stty").arg("size").stdin(Stdio::inherit()).stderr(Stdio::null()).output();
    String::from_utf8(asked.ok()?.stdout).ok()?.split_whitespace().nth(1)?.parse().ok()
}
