import com.google.api.client.auth.openidconnect.IdToken;
import com.google.api.client.auth.openidconnect.IdTokenVerifier;
import com.google.api.client.http.GenericUrl;
import com.google.api.client.http.HttpRequestFactory;
import com.google.api.client.http.HttpResponse;
import com.google.api.client.http.javanet.NetHttpTransport;
import com.google.api.client.json.gson.GsonFactory;
import com.google.auth.http.HttpCredentialsAdapter;
import com.google.auth.oauth2.ComputeEngineCredentials;
import com.google.auth.oauth2.GoogleCredentials;
import com.google.auth.oauth2.IdTokenCredentials;
import com.google.auth.oauth2.IdTokenProvider;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/**
 * What users of the released packages write: nothing in here knows of Sallyport. The tests in the
 * parent folder run it as {@code java Client PROGRAM ARG...} and read the last line that it prints.
 */
public class Client {
  private static final String CLOUD_PLATFORM = "https://www.googleapis.com/auth/cloud-platform";

  public static void main(String[] args) throws Exception {
    Map<String, Object> result;
    switch (args[0]) {
      case "adc":
        result = adc();
        break;
      case "idtoken":
        result = Map.of("Token", credentials(args[1], args[2]).getIdToken().getTokenValue());
        break;
      case "call":
        result = call(args[1], args[2]);
        break;
      case "verify":
        result = verify(args[1], args[2], args[3], args[4]);
        break;
      default:
        throw new IllegalArgumentException(args[0]);
    }
    System.out.println(GsonFactory.getDefaultInstance().toString(result));
  }

  private static Map<String, Object> adc() throws Exception {
    GoogleCredentials credentials = GoogleCredentials.getApplicationDefault().createScoped(CLOUD_PLATFORM);
    credentials.refresh();
    Map<String, String> values = Map.of(
        "client", credentials.getClass().getSimpleName(),
        "email", ((ComputeEngineCredentials) credentials).getAccount());
    return Map.of("Token", credentials.getAccessToken().getTokenValue(), "Values", values);
  }

  private static IdTokenCredentials credentials(String audience, String... options) throws Exception {
    List<IdTokenProvider.Option> wanted = new ArrayList<>();
    for (String option : options) {
      wanted.add(IdTokenProvider.Option.valueOf(option));
    }
    IdTokenCredentials credentials = IdTokenCredentials.newBuilder()
        .setIdTokenProvider((IdTokenProvider) GoogleCredentials.getApplicationDefault())
        .setTargetAudience(audience)
        .setOptions(wanted)
        .build();
    credentials.refresh();
    return credentials;
  }

  private static Map<String, Object> call(String audience, String url) throws Exception {
    HttpRequestFactory requests =
        new NetHttpTransport().createRequestFactory(new HttpCredentialsAdapter(credentials(audience)));
    HttpResponse response = requests.buildGetRequest(new GenericUrl(url)).execute();
    Map<String, Object> call = Map.of("Status", response.getStatusCode(), "Body", response.parseAsString());
    return Map.of("Calls", List.of(call));
  }

  private static Map<String, Object> verify(String certs, String issuer, String audience, String token)
      throws Exception {
    IdTokenVerifier verifier = new IdTokenVerifier.Builder()
        .setCertificatesLocation(certs)
        .setIssuer(issuer)
        .setAudience(List.of(audience))
        .build();
    IdToken idToken = IdToken.parse(GsonFactory.getDefaultInstance(), token);
    if (!verifier.verify(idToken)) {
      throw new SecurityException("the token is not good");
    }
    return Map.of("Values", Map.of("subject", idToken.getPayload().getSubject()));
  }
}
