//! What keys do: choose a node or a link, and act on it.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::demo::action::Action;
use crate::demo::picture::{LinkPicture, NodePicture, Picture};

/// Which line is chosen: nodes first, then links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::demo) struct Selection {
    line: usize,
    nodes: usize,
}

/// What stands in the chosen line.
#[derive(Clone, Copy, Debug)]
pub(in crate::demo) enum Selected<'a> {
    Node(&'a NodePicture),
    Link(&'a LinkPicture),
}

impl Selection {
    /// The first node.
    pub(in crate::demo) fn new(picture: &Picture) -> Self {
        Self {
            line: 0,
            nodes: nodes(picture).count(),
        }
    }

    /// What is chosen.
    pub(super) fn selected<'a>(&self, picture: &'a Picture) -> Option<Selected<'a>> {
        match nodes(picture).nth(self.line) {
            Some(node) => Some(Selected::Node(node)),
            None => picture.links.get(self.line - self.nodes).map(Selected::Link),
        }
    }

    /// Whether a link is chosen.
    pub(super) fn is_link(&self, index: usize) -> bool {
        self.line == self.nodes + index
    }

    /// Takes a key. Gives what it does; an error says why it does nothing.
    pub(in crate::demo) fn handle_key(
        &mut self,
        key: KeyEvent,
        picture: &Picture,
    ) -> Result<Option<Action>, &'static str> {
        let lines = self.nodes + picture.links.len();
        let node = match self.selected(picture) {
            Some(Selected::Node(node)) => Some(node),
            _ => None,
        };
        let chosen_node = || {
            node.map(|node| node.name.clone())
                .ok_or("choose a node first, with ↑ and ↓")
        };
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Ok(Some(Action::Stop)),
            KeyCode::Char('q') | KeyCode::Esc => Ok(Some(Action::Stop)),
            KeyCode::Up => {
                self.line = self.line.saturating_sub(1);
                Ok(None)
            }
            KeyCode::Down => {
                self.line = (self.line + 1).min(lines.saturating_sub(1));
                Ok(None)
            }
            KeyCode::Char('k') => chosen_node().map(Action::Kill).map(Some),
            KeyCode::Char('s') => chosen_node().map(Action::Start).map(Some),
            KeyCode::Char('o') => chosen_node().map(|node| Some(Action::SwitchOver(node.region))),
            KeyCode::Char('c') => match self.selected(picture) {
                Some(Selected::Link(link)) => Ok(Some(Action::Cut(link.name.clone()))),
                _ if picture.links.is_empty() => {
                    Err("one region has no links: start with --regions 2 or more")
                }
                _ => Err("choose a link first, with ↑ and ↓"),
            },
            KeyCode::Char('h') => match self.selected(picture) {
                Some(Selected::Link(link)) => Ok(Some(Action::Heal(Some(link.name.clone())))),
                _ => Ok(Some(Action::Heal(None))),
            },
            _ => Ok(None),
        }
    }
}

fn nodes(picture: &Picture) -> impl Iterator<Item = &NodePicture> {
    picture.regions.iter().flat_map(|region| &region.nodes)
}
