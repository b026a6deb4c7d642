// framework/kernels/activation.h: the function between the linear maps of an MLP.
#pragma once

namespace regroup {

/// An elementwise function. Gated (Shazeer 2020, "GLU variants"): of a row's first half, times the
/// second half.
struct Activation {
  enum class Kind {
    kSilu,      // x sigmoid(x)
    kGelu,      // x Φ(x) (Hendrycks and Gimpel 2016)
    kGeluTanh,  // that with Φ(x) = (1 + tanh(sqrt(2 / π) (x + 0.044715 x³))) / 2
    kRelu,      // max(x, 0)
  };
  Kind kind = Kind::kSilu;
  bool gated = true;

  bool operator==(const Activation&) const = default;
};

}  // namespace regroup
