//! The property of [`super::crashes`] sees each bug that is planted for it.
