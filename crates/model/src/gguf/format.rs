//! The number formats of tensors: how many values a block holds, in how many bytes.

/// How a tensor's numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorFormat {
    /// float32.
    F32,
    /// float16.
    F16,
    /// bfloat16.
    Bf16,
    /// 4 bits, a scale for 32.
    Q4_0,
    /// 4 bits, a scale and a minimum for 32.
    Q4_1,
    /// 5 bits, a scale for 32.
    Q5_0,
    /// 5 bits, a scale and a minimum for 32.
    Q5_1,
    /// 8 bits, a scale for 32.
    Q8_0,
    /// 2 bits, scales and minima of 4 bits for 16, within 256.
    Q2K,
    /// 3 bits, scales of 6 bits for 16, within 256.
    Q3K,
    /// 4 bits, scales and minima of 6 bits for 32, within 256.
    Q4K,
    /// 5 bits, scales and minima of 6 bits for 32, within 256.
    Q5K,
    /// 6 bits, scales of 8 bits for 16, within 256.
    Q6K,
}

/// Format, GGUF's number, its name, values in a block, bytes of a block.
const TABLE: [(TensorFormat, u32, &str, usize, usize); 13] = [
    (TensorFormat::F32, 0, "F32", 1, 4),
    (TensorFormat::F16, 1, "F16", 1, 2),
    (TensorFormat::Bf16, 30, "BF16", 1, 2),
    (TensorFormat::Q4_0, 2, "Q4_0", 32, 18),
    (TensorFormat::Q4_1, 3, "Q4_1", 32, 20),
    (TensorFormat::Q5_0, 6, "Q5_0", 32, 22),
    (TensorFormat::Q5_1, 7, "Q5_1", 32, 24),
    (TensorFormat::Q8_0, 8, "Q8_0", 32, 34),
    (TensorFormat::Q2K, 10, "Q2_K", 256, 84),
    (TensorFormat::Q3K, 11, "Q3_K", 256, 110),
    (TensorFormat::Q4K, 12, "Q4_K", 256, 144),
    (TensorFormat::Q5K, 13, "Q5_K", 256, 176),
    (TensorFormat::Q6K, 14, "Q6_K", 256, 210),
];

/// Names of formats that are known and not read, for messages.
const UNREAD: [(u32, &str); 19] = [
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];

impl TensorFormat {
    /// All formats that are read.
    pub fn all() -> impl Iterator<Item = TensorFormat> {
        TABLE.into_iter().map(|row| row.0)
    }

    fn row(self) -> (TensorFormat, u32, &'static str, usize, usize) {
        *TABLE
            .iter()
            .find(|row| row.0 == self)
            .expect("the table has a row for each")
    }

    /// The format of GGUF's number.
    ///
    /// # Errors
    /// The name of a format that is not read, for a message.
    pub(super) fn of_number(number: u32) -> Result<Self, String> {
        let row = TABLE.iter().find(|row| row.1 == number);
        row.map(|row| row.0).ok_or_else(|| {
            let named = UNREAD.iter().find(|(known, _)| *known == number);
            named.map_or_else(
                || format!("number {number}"),
                |(_, name)| (*name).to_owned(),
            )
        })
    }

    /// GGUF's number.
    pub(super) fn number(self) -> u32 {
        self.row().1
    }

    /// GGUF's name, such as `Q4_K`.
    pub fn name(self) -> &'static str {
        self.row().2
    }

    /// Values in a block; rows are whole blocks.
    pub fn block_len(self) -> usize {
        self.row().3
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        self.row().4
    }
}
