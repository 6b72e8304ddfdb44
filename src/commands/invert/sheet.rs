//! The picture of pictures: before and after, side by side.

use super::{Input, Made};
use crate::Result;
use crate::images::Rgb8;
use crate::report::sheet::{Column, table};

/// Most pictures in the grid; the files hold them all.
const MOST: usize = 24;

/// PNG: a row per picture; the picture, its reconstruction and, if there is one, the edit.
pub fn grid(pictures: &[Input], made: &[Made], edit: &str) -> Result<Vec<u8>> {
    let column = |title: &str, pictures: Vec<&Rgb8>| Column { title: title.into(), pictures: pictures.into_iter().cloned().collect() };
    let n = pictures.len().min(MOST);
    let mut columns = vec![
        column("picture", pictures[..n].iter().map(|p| &p.image).collect()),
        column("reconstruction", made[..n].iter().map(|m| &m.reconstruction).collect()),
    ];
    let edited: Vec<&Rgb8> = made[..n].iter().filter_map(|m| m.edited.as_ref()).collect();
    if edited.len() == n && !edit.is_empty() {
        columns.push(column(edit, edited));
    }
    let names: Vec<String> = pictures[..n].iter().map(|p| p.name.clone()).collect();
    table(&names, &columns)
}
