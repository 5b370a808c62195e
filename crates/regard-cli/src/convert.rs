//! `regard convert`: a folder to one GGUF file.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use regard_models::gguf::WeightFormat;
use regard_models::{Conversion, Folder};

use crate::error::Error;
use crate::interrupt::Listener;
use crate::output::say;
use crate::progress;
use crate::save::{self, save};

/// Arguments of `regard convert`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The file holds weights, settings, tokens and chat template, named as llama.cpp's own converter names them. Vectors stay in \
f32, and rows that q8_0 cannot cut into blocks of 32 become f16. The file is there whole or not at all.

Examples:
  regard convert ./Qwen3-0.6B
  regard convert ./Qwen3-0.6B --dtype q8_0
  regard convert ./my-model --dtype bf16 --output my-model.gguf
  regard generate --model my-model.gguf \"Hello\"")]
pub(crate) struct Arguments {
    /// A folder of a language model, as Hugging Face's libraries save it
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// Where to write [default: the folder's name and the type, here]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// What the weights are stored in
    #[arg(long, value_name = "DTYPE", value_enum, default_value_t = Dtype::F16)]
    dtype: Dtype,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Dtype {
    F32,
    F16,
    Bf16,
    /// Bytes with a scale for every 32
    #[value(name = "q8_0")]
    Q8,
}

impl From<Dtype> for WeightFormat {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::F16 => Self::F16,
            Dtype::Bf16 => Self::Bf16,
            Dtype::Q8 => Self::Q8_0,
        }
    }
}

/// Runs `regard convert`.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Error> {
    let format = WeightFormat::from(arguments.dtype);
    let folder = Folder::open(&arguments.folder)?;
    let conversion = Conversion::new(&folder, format)?;
    let output = arguments.output.clone().unwrap_or_else(|| {
        // A name for `.` too.
        let folder = arguments.folder.canonicalize().unwrap_or_else(|_| arguments.folder.clone());
        let name = folder.file_name().map_or("model".into(), |name| name.to_string_lossy());
        PathBuf::from(format!("{name}-{format}.gguf"))
    });
    if is_part_of(&output, &arguments.folder) {
        let problem = "it is a file of the folder that is converted: give another --output".to_owned();
        return Err(Error::Usage(format!("{}: {problem}", output.display())));
    }
    save::check(&output)?;
    let bar = progress::bytes(conversion.bytes(), format!("writing {}", output.display()));
    let listener = Listener::new();
    let mut failure = None;
    let saved = save(&output, |file| {
        let mut file = Stopping { file, listener: &listener, refused: false };
        conversion.write(&mut file, &mut |done| bar.set_position(done)).map_err(|error| match error {
            regard_models::Error::Io { source, .. } if file.refused => source,
            error => {
                let source = io::Error::other(error.to_string());
                failure = Some(error);
                source
            }
        })
    });
    bar.finish_and_clear();
    match (saved, failure) {
        _ if listener.pressed() => {
            say!("stopped by Ctrl-C; {} is as it was", output.display());
            Err(Error::Interrupted)
        }
        // The folder's fault.
        (Err(_), Some(error)) => Err(error.into()),
        (saved, _) => saved,
    }
}

/// Whether there is such a file in the folder.
fn is_part_of(file: &Path, folder: &Path) -> bool {
    let (file, folder) = (file.canonicalize(), folder.canonicalize());
    matches!((file, &folder), (Ok(file), Ok(folder)) if file.is_file() && file.starts_with(folder))
}

/// A file that can no longer be written once Ctrl-C was pressed.
struct Stopping<'a> {
    file: &'a mut dyn Write,
    listener: &'a Listener,
    /// Whether it could not be written.
    refused: bool,
}

impl Write for Stopping<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let stopped = || Err(io::Error::other("stopped by Ctrl-C"));
        let written = if self.listener.pressed() { stopped() } else { self.file.write(bytes) };
        self.refused |= written.is_err();
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
