//! Tests of the group as its driver sees it.
