//! The tables of `mtv-bench arch`.

use mtv_bench::commands::arch::{Network, every_network, table_1, table_2};
use mtv_bench::generators::Family;

/// Parameter counts and multiply-accumulates counted in PyTorch on the reference modules.
#[test]
fn generators_have_the_published_size_and_cost() {
    let expected = [
        ("pggan-128", 22_933_394, 20.95),
        ("pggan-1024", 23_079_115, 42.74),
        ("stylegan1-128", 25_843_858, 18.24),
        ("stylegan1-1024", 26_219_627, 32.24),
        ("stylegan2-128", 29_328_669, 30.72),
        ("stylegan2-1024", 30_370_060, 75.39),
        // Less what the last layer's unused outputs would cost.
        ("biggan-128", 50_388_609, 11.32 - 2.36),
        ("biggan-256", 55_880_833, 38.83 - 9.44),
        ("biggan-512", 56_163_905, 75.75 - 37.75),
    ];
    for (name, parameters, gmac) in expected {
        let (got, macs) = Network::parse(name).unwrap().totals().unwrap();
        assert_eq!(got, parameters, "{name}");
        assert!((macs as f64 / 1e9 - gmac).abs() < 0.011, "{name}: {macs} MAC, expected {gmac} G");
    }
}

/// The counts of the released case 1 encoder.
#[test]
fn encoders_have_the_released_size() {
    for (size, parameters) in [(256, 24_140_544), (512, 24_236_928), (1024, 24_278_208)] {
        let network = Network { family: Family::StyleGan1, size, encoder: true };
        assert_eq!(network.totals().unwrap().0, parameters, "{size}");
    }
}

#[test]
fn table_1_is_the_right_way_up() {
    let table = table_1().unwrap();
    assert_eq!(table.rows[1][1], "256: FC, IN, CONV(64, 64, 3), P(64), L-ReLU");
    assert_eq!(table.rows[2][3], "1024: FC, IN, CONV(16, 32, 3), P(32), L-ReLU");
    assert_eq!(table.rows[14][1], "4: FC(1024, 512), IN");
    let table = table_2().unwrap();
    assert_eq!(table.rows[14][1], "FC(8192, 512)");
    assert_eq!(table.rows[16][3], "FC(8192, 256), FC(256, 128)");
}

#[test]
fn an_unknown_network_is_told_the_names() {
    let error = Network::parse("stylegan3-256").unwrap_err();
    assert!(error.message.contains("stylegan1-1024"), "{error}");
    assert!(Network::parse("biggan-1024").is_err());
}

#[test]
fn the_committed_tables_are_those_of_the_code() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("paper/tables");
    for table in [table_1().unwrap(), table_2().unwrap(), every_network().unwrap()] {
        for (ending, text) in [("md", table.markdown()), ("tex", table.latex()), ("html", table.html())] {
            let path = folder.join(format!("{}.{ending}", table.file));
            let committed = std::fs::read_to_string(&path).unwrap();
            assert!(committed == text, "{} is not what `mtv-bench arch --out paper/tables` writes", path.display());
        }
    }
}
