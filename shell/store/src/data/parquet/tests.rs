use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use parquet::basic::{Compression, Encoding};
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use proptest::prelude::*;

use super::*;

type Rows = Vec<Option<Vec<u8>>>;

/// A file of one or more groups of rows, with the column `text` between two others.
fn file(groups: &[Rows], kind: &str, properties: WriterProperties) -> Vec<u8> {
    let message = format!(
        "message m {{ required int64 id; {kind}; optional group in {{ optional int32 x; }} }}"
    );
    let schema = Arc::new(parse_message_type(&message).unwrap());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).unwrap();
    for rows in groups {
        let mut group = writer.next_row_group().unwrap();
        while let Some(mut column) = group.next_column().unwrap() {
            let levels: Vec<i16> = rows.iter().map(|row| i16::from(row.is_some())).collect();
            match column.untyped() {
                ColumnWriter::Int64ColumnWriter(ids) => {
                    let all: Vec<i64> = (0..).take(rows.len()).collect();
                    ids.write_batch(&all, Some(&levels), None).unwrap();
                }
                ColumnWriter::Int32ColumnWriter(inner) => {
                    inner.write_batch(&[], Some(&vec![0; rows.len()]), None).unwrap();
                }
                ColumnWriter::ByteArrayColumnWriter(text) => {
                    let values: Vec<ByteArray> =
                        rows.iter().flatten().map(|row| ByteArray::from(row.clone())).collect();
                    text.write_batch(&values, Some(&levels), None).unwrap();
                }
                _ => unreachable!("the schema above"),
            }
            column.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.into_inner().unwrap()
}

const TEXT: &str = "optional binary text (STRING)";

fn rows(texts: &[Option<&str>]) -> Rows {
    texts.iter().map(|text| text.map(|text| text.as_bytes().to_vec())).collect()
}

fn plain() -> WriterProperties {
    WriterProperties::builder().build()
}

/// A file of these rows in the column `text`, for the tests of those who read it.
pub(in super::super) fn of_rows(texts: &[&str]) -> Vec<u8> {
    file(&[rows(&texts.iter().copied().map(Some).collect::<Vec<_>>())], TEXT, plain())
}

fn read(bytes: &[u8], field: &str) -> Result<Vec<String>, Fault> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    fs::write(&path, bytes).unwrap();
    read_file(&path, field)
}

fn read_file(path: &Path, field: &str) -> Result<Vec<String>, Fault> {
    let mut column = TextColumn::open(path, field)?;
    let mut texts = Vec::new();
    while let Some(text) = column.next_text()? {
        texts.push(text.to_owned());
    }
    Ok(texts)
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parquet").join(format!("{name}.parquet"))
}

#[test]
fn files_of_other_peoples_software_give_their_rows() {
    let expected: Vec<String> = (0..300)
        .filter(|n| n % 5 != 4)
        .map(|n| format!("row {n} 算粒{}", ".".repeat(n % 7)))
        .collect();
    for name in ["zstd", "zstd-v2-delta", "snappy-length", "lz4", "gzip-v2", "none"] {
        assert_eq!(read_file(&fixture(name), "text").unwrap(), expected, "{name}");
    }
    let error = read_file(&fixture("brotli"), "text").unwrap_err().to_string();
    assert!(error.contains("Brotli compression, which is not read here"), "{error}");
}

#[test]
fn a_column_that_is_not_there_or_no_text_is_named() {
    for (field, expected) in [
        ("body", "found no such column, only: id, tags, text, place; set `field` under [data]"),
        ("place.text", "Columns inside others (a.b) cannot be named"),
        ("place", "found one of columns inside it"),
        ("tags", "found one of columns inside it"),
        ("id", "found one of whole numbers"),
    ] {
        let error = read_file(&fixture("none"), field).unwrap_err().to_string();
        assert!(error.contains(expected), "{field}: {error}");
    }
    let kinds = ["required binary text (BSON)", "repeated binary text (STRING)"];
    let none: Rows = Vec::new();
    for kind in kinds {
        let error = read(&file(std::slice::from_ref(&none), kind, plain()), "text").unwrap_err();
        assert!(matches!(error, Fault::NotText(_)), "{kind}: {error}");
    }
}

#[test]
fn text_that_is_not_utf8_names_the_row() {
    let mut second = rows(&[Some("good"), None, Some("good too")]);
    second.push(Some(b"caf\xe9".to_vec()));
    let bytes = file(&[rows(&[Some("a"), None]), second], TEXT, plain());
    let error = read(&bytes, "text").unwrap_err();
    assert!(matches!(error, Fault::NotUtf8 { row: 5, offset: 3 }), "{error}");
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let bytes = fs::read(fixture("zstd")).unwrap();
    for len in (0..bytes.len()).step_by(7) {
        assert!(read(&bytes[..len], "text").is_err(), "{len}");
    }
    let error = read(&bytes[..bytes.len() / 2], "text").unwrap_err().to_string();
    assert!(error.contains("cut short"), "{error}");
    let error = read(b"{\"text\": \"not Parquet at all\"}", "text").unwrap_err();
    assert!(matches!(error, Fault::NotParquet), "{error}");
}

#[test]
fn a_header_that_lies_about_lengths_is_refused_before_anything_is_allocated() {
    let good = file(&[rows(&[Some("some text"), Some("more")])], TEXT, plain());
    // The footer's own length.
    let mut bytes = good.clone();
    let at = bytes.len() - 8;
    for (lie, expected) in [(u32::MAX, "bytes of footer"), (1 << 20, "cut short"), (3, "")] {
        bytes[at..at + 4].copy_from_slice(&lie.to_le_bytes());
        let error = read(&bytes, "text").unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    // A page that claims a gigabyte, in a file of twenty bytes: type, unpacked, packed.
    for (unpacked, packed, expected) in [
        (1_u64 << 30, 4, "bytes of a page"),
        (200 << 20, 4, "a thousand times its size"),
        (4, 1 << 40, "cut short"),
    ] {
        let mut page = vec![0x15, 0x00];
        for size in [unpacked, packed] {
            page.push(0x15);
            let mut rest = size << 1;
            while rest >= 0x80 {
                page.push(rest as u8 | 0x80);
                rest >>= 7;
            }
            page.push(rest as u8);
        }
        // The struct of a data page: one value.
        page.extend([0x2c, 0x15, 0x02, 0x00, 0x00, b't', b'e', b'x', b't']);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("page");
        fs::write(&path, &page).unwrap();
        let mut pages = Pages::new(File::open(&path).unwrap(), page.len() as u64);
        let chunk = footer::Chunk { codec: footer::Codec::Zstd, start: 4, rows: 1 };
        assert!(pages.open(chunk).is_ok());
        pages.open(footer::Chunk { start: 0, ..chunk }).unwrap_err();
        fs::write(&path, [b"PAR1", page.as_slice()].concat()).unwrap();
        let mut pages = Pages::new(File::open(&path).unwrap(), page.len() as u64 + 4);
        pages.open(chunk).unwrap();
        let error = pages.next(false).err().expect("a page that lies").to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn every_byte_that_is_changed_gives_text_or_an_error() {
    let names = ["zstd-v2-delta", "snappy-length", "gzip-v2", "lz4"];
    for name in names {
        let good = fs::read(fixture(name)).unwrap();
        for at in (0..good.len()).step_by(13) {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << (at % 8);
            if let Ok(texts) = read(&bytes, "text") {
                assert!(texts.len() <= 300, "{name}, byte {at}: {}", texts.len());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_the_reference_writer_wrote_is_read(
        groups in proptest::collection::vec(
            proptest::collection::vec(proptest::option::of("[a-c算]{0,9}|common"), 0..60), 0..4),
        codec in 0..4_usize, encoding in 0..4_usize, v2: bool, required: bool, rows_a_page in 1..40_usize,
    ) {
        let codecs = [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            Compression::GZIP(parquet::basic::GzipLevel::default()),
            Compression::LZ4_RAW,
        ];
        let encodings =
            [Encoding::PLAIN, Encoding::DELTA_LENGTH_BYTE_ARRAY, Encoding::DELTA_BYTE_ARRAY];
        let version =
            if v2 { WriterVersion::PARQUET_2_0 } else { WriterVersion::PARQUET_1_0 };
        let mut properties = WriterProperties::builder()
            .set_compression(codecs[codec])
            .set_writer_version(version)
            .set_data_page_row_count_limit(rows_a_page)
            .set_write_batch_size(rows_a_page)
            .set_dictionary_enabled(encoding == 3);
        if let Some(&encoding) = encodings.get(encoding) {
            properties = properties.set_column_encoding("text".into(), encoding);
        }
        let fill = |row: &Option<String>| match row {
            None if required => Some(Vec::new()),
            row => row.clone().map(String::into_bytes),
        };
        let groups: Vec<Rows> = groups.iter().map(|group| group.iter().map(fill).collect()).collect();
        let kind = if required { "required binary text (STRING)" } else { TEXT };
        let texts: Vec<String> = groups.iter().flatten().flatten()
            .map(|row| String::from_utf8(row.clone()).unwrap()).collect();
        prop_assert_eq!(read(&file(&groups, kind, properties.build()), "text").unwrap(), texts);
    }
}
