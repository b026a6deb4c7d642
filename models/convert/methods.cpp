#include "models/convert/methods.h"

#include <c10/util/StringUtil.h>

#include "framework/errors/error.h"

namespace regroup {

const std::vector<ConversionMethod>& conversion_methods() {
  static const std::vector<ConversionMethod> methods{
      {"mean", "the mean of each group's heads", mean_heads, false, false},
      {"first", "the first head of each group", first_heads, false, false},
      {"random", "new random heads at the source's scale", random_heads, false, true},
      {"align", "heads turned towards each other, then their mean", align_heads, true, false},
      {"pca", "the head that loses least for queries and outputs, in closed form", pca_heads, true,
       false},
  };
  return methods;
}

std::vector<std::string> conversion_method_names() {
  std::vector<std::string> names;
  for (const auto& method : conversion_methods()) names.push_back(method.name);
  return names;
}

const ConversionMethod& conversion_method(const std::string& name) {
  for (const auto& method : conversion_methods()) {
    if (method.name == name) return method;
  }
  throw request_error("method", c10::str("\"", name, "\" is not a conversion method"),
                      c10::str("Known: ", c10::Join(", ", conversion_method_names()), "."));
}

}  // namespace regroup
