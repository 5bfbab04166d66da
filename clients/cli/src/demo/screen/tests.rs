//! What stands on the screen, and what keys do.

use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::*;
use crate::demo::action::{Action, LinkName, NodeName};
use crate::demo::picture::{LoadPicture, TierPicture};

fn node(region: &str, number: u32, state: NodeState) -> NodePicture {
    NodePicture {
        name: NodeName {
            region: region.to_owned(),
            number,
        },
        broker: number,
        kafka: ([127, 0, 0, 1], 9091 + number as u16).into(),
        admin: ([127, 0, 0, 1], 9643 + number as u16).into(),
        data: "/demo".into(),
        state,
        leads: Some(3),
    }
}

fn picture() -> Picture {
    let region = |name: &str, is_owner, nodes| RegionPicture {
        name: name.to_owned(),
        is_owner: Some(is_owner),
        nodes,
        load: LoadPicture {
            produced_per_second: 40.2,
            delay_ms: Some(12.0),
            ..LoadPicture::default()
        },
        tier: TierPicture {
            objects: 7,
            object_bytes: 2048,
            ..TierPicture::default()
        },
        bucket: "/demo/bucket".into(),
    };
    let killed = NodeState::Down {
        reason: "killed".to_owned(),
        is_wished: true,
    };
    Picture {
        running_for: Duration::from_secs(61),
        first_record: Some(Duration::from_millis(2_340)),
        regions: vec![
            region(
                "us",
                true,
                vec![
                    node("us", 1, NodeState::Ready { pid: 4711 }),
                    node("us", 2, killed),
                ],
            ),
            region(
                "eu",
                false,
                vec![node("eu", 1, NodeState::Starting { pid: 4713 })],
            ),
        ],
        links: vec![LinkPicture {
            name: LinkName {
                one: "us".to_owned(),
                other: "eu".to_owned(),
            },
            round_trip: Duration::from_millis(80),
            measured: Some(Duration::from_micros(80_700)),
            is_cut: true,
            bytes: 0,
            bytes_per_second: 2048.0,
            staleness: Some(Duration::from_millis(90)),
        }],
        news: vec!["   1.0 s  us/1 is up".to_owned()],
        ..Picture::default()
    }
}

fn screen(picture: &Picture, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    let selection = Selection::new(picture);
    terminal
        .draw(|frame| draw(frame, picture, &selection))
        .expect("drawn");
    terminal.backend().to_string()
}

#[test]
fn the_screen_tells_who_owns_what_runs_and_what_is_cut() {
    let screen = screen(&picture(), 110, 40);
    for expected in [
        "running for 61 s",
        "first record through after 2.3 s",
        "owner",
        "mirror",
        "40/s",
        "2.0 KiB in 7 objects",
        "4711",
        "down",
        "killed",
        "starting",
        "us-eu",
        "cut",
        "81 ms",
        "90 ms",
        "us/1 is up",
        "kcat -b 127.0.0.1:9092 -X client.rack=eu -C -t orders",
        "meridian demo switchover --to eu",
        "q quit",
    ] {
        assert!(screen.contains(expected), "{expected} is missing:\n{screen}");
    }
}

#[test]
fn a_small_terminal_shows_the_tables_and_the_keys_and_leaves_out_what_to_try() {
    let screen = screen(&picture(), 80, 24);
    for expected in [
        "owner",
        "2.0 KiB in 7 objects",
        "eu/1",
        "us-eu",
        "us/1 is up",
        "q quit",
    ] {
        assert!(screen.contains(expected), "{expected} is missing:\n{screen}");
    }
    assert!(!screen.contains("kcat"), "{screen}");
}

#[test]
fn no_size_of_a_terminal_is_too_small_to_draw() {
    for (width, height) in [(1, 1), (20, 5), (80, 24), (300, 100)] {
        screen(&picture(), width, height);
    }
    screen(&Picture::default(), 80, 24);
}

#[test]
fn keys_choose_a_line_and_act_on_it() {
    let picture = picture();
    let mut selection = Selection::new(&picture);
    let mut press = |code| selection.handle_key(KeyEvent::new(code, KeyModifiers::NONE), &picture);
    let us = |number| NodeName {
        region: "us".to_owned(),
        number,
    };
    let link = || picture.links[0].name.clone();
    assert_eq!(press(KeyCode::Char('k')), Ok(Some(Action::Kill(us(1)))));
    assert!(press(KeyCode::Char('c')).is_err(), "a node cannot be cut");
    assert_eq!(press(KeyCode::Down), Ok(None));
    assert_eq!(press(KeyCode::Char('s')), Ok(Some(Action::Start(us(2)))));
    assert_eq!(press(KeyCode::Down), Ok(None));
    assert_eq!(
        press(KeyCode::Char('o')),
        Ok(Some(Action::SwitchOver("eu".to_owned())))
    );
    assert_eq!(press(KeyCode::Char('h')), Ok(Some(Action::Heal(None))));
    // Past the last line there is nothing.
    for _ in 0..5 {
        assert_eq!(press(KeyCode::Down), Ok(None));
    }
    assert_eq!(press(KeyCode::Char('c')), Ok(Some(Action::Cut(link()))));
    assert_eq!(press(KeyCode::Char('h')), Ok(Some(Action::Heal(Some(link())))));
    assert!(press(KeyCode::Char('k')).is_err(), "a link cannot be killed");
    assert_eq!(press(KeyCode::Char('x')), Ok(None));
    assert_eq!(press(KeyCode::Char('q')), Ok(Some(Action::Stop)));
    let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(selection.handle_key(interrupt, &picture), Ok(Some(Action::Stop)));
}
