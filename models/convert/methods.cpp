#include "models/convert/methods.h"

#include <c10/util/StringUtil.h>

#include "framework/errors/error.h"

namespace regroup {

const std::vector<ConversionMethod>& conversion_methods() {
  static const std::vector<ConversionMethod> methods{
      {.name = "mean", .summary = "the mean of each group's heads", .pool = mean_heads},
      {.name = "first", .summary = "the first head of each group", .pool = first_heads},
      {.name = "random",
       .summary = "new random heads at the source's scale",
       .pool = random_heads,
       .draws_anew = true},
      {.name = "align",
       .summary = "heads turned towards each other, then their mean",
       .pool = align_heads,
       .uses_moments = true,
       .turns_queries = true},
      {.name = "pca",
       .summary = "the head that loses least for queries and outputs, in closed form",
       .pool = pca_heads,
       .uses_moments = true,
       .turns_queries = true},
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
