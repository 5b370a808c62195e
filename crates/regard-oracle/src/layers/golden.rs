//! Layers that others have computed, as `scripts/golden-layers` and `scripts/golden-tabpfn` write them.

use safetensors::SafeTensors;
use serde_json::Value;

use super::{Tensor, Tensors};

/// A layer, what it is given, and what others make of it.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is special about it.
    pub name: String,
    /// The layer, `"layer"`, and its settings.
    pub settings: Value,
    /// Inputs and weights, of which gradients are known.
    pub given: Tensors,
    /// Inputs that have no gradient. Tokens and masks are numbers too.
    pub constant: Tensors,
    /// What comes out.
    pub out: Tensors,
    /// The gradients of a loss by what comes out.
    pub dout: Tensors,
    /// The gradients of this loss, `Σ dout·out`, by what is given; empty where they are not known.
    pub gradient: Tensors,
}

impl Case {
    /// Which layer it is.
    pub fn layer(&self) -> &str {
        self.settings["layer"].as_str().expect("a layer")
    }

    /// A setting that is on or off; what is not set is off.
    pub fn flag(&self, name: &str) -> bool {
        self.settings[name].as_bool().unwrap_or(false)
    }

    /// A number that is set.
    pub fn number(&self, name: &str) -> Option<f64> {
        self.settings[name].as_f64()
    }
}

/// All cases of a file.
///
/// # Panics
/// Panics where it is not such a file.
pub fn cases(file: &[u8]) -> Vec<Case> {
    let (_, header) = SafeTensors::read_metadata(file).expect("a file of safetensors");
    let golden = &header.metadata().as_ref().expect("metadata")["golden"];
    let golden: Value = serde_json::from_str(golden).expect("JSON");
    let file = SafeTensors::deserialize(file).expect("a file of safetensors");
    let tensors: Tensors = file.tensors().into_iter().map(|(name, tensor)| (name, numbers(&tensor))).collect();
    let case = |(name, settings): (&String, &Value)| {
        let group = |group: &str| tensors.under(&format!("{name}/{group}/"));
        let [given, constant, out, dout, gradient] = ["given", "constant", "out", "dout", "gradient"].map(group);
        Case { name: name.clone(), settings: settings.clone(), given, constant, out, dout, gradient }
    };
    golden["cases"].as_object().expect("cases").iter().map(case).collect()
}

fn numbers(tensor: &safetensors::tensor::TensorView<'_>) -> Tensor {
    assert_eq!(tensor.dtype(), safetensors::Dtype::F64);
    let (numbers, _) = tensor.data().as_chunks();
    Tensor::new(tensor.shape(), numbers.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect())
}
