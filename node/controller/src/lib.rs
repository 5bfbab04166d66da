//! The region's facts: topics, settings, nodes, placement. Pure.
